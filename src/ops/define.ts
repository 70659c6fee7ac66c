import {
  currentGraph,
  currentPath,
  type DType,
  EspalierError,
  formatShape,
  type Operator,
  type Shape,
  type Tensor,
  type TensorType,
} from "../graph/index.ts";
import type { Provider, Ref } from "./emission.ts";

/** The tensors that an operator takes, by name; optional ones may be undefined. */
export type Operands = Record<string, Tensor | undefined>;

type Refs<I extends Operands> = { [K in keyof I]: Ref | Extract<I[K], undefined> };

export interface EmitContext<I extends Operands> {
  /** The operands as tensors, for their shapes and types. */
  readonly inputs: I;
  readonly outputs: readonly Tensor[];
  /** The execution provider that will run the graph: where one computes a wrong value, the operator chooses a composition that is right there. */
  readonly provider: Provider;
  /** For each output, whether anything reads it: one that nobody reads need not be computed, and any reference stands for it. */
  readonly read: readonly boolean[];
}

/** Everything about one operator, in one place. */
export interface OpDefinition<I extends Operands, A extends object> {
  name: string;
  /** Shape and type rule. Throws with {@link shapeError} when the operands do not fit. */
  type(inputs: I, attrs: A): TensorType | readonly TensorType[];
  /** The ONNX nodes that compute it; one reference per output. */
  emit(refs: Refs<I>, attrs: A, context: EmitContext<I>): Ref | readonly Ref[];
  /**
   * The vector-Jacobian product: given the gradient of the loss for each output (undefined where none flows), the gradient for
   * each operand, written in operators so that it can be differentiated again. Absent where the operator has no gradient.
   */
  grad?(
    values: I & { readonly y: Tensor; readonly outputs: readonly Tensor[] },
    dy: Tensor,
    attrs: A,
    dys: readonly (Tensor | undefined)[],
  ): {
    [K in keyof I]?: Tensor | undefined;
  };
}

/** An operator: call it to add a node to the graph being traced. */
export interface Op<I extends Operands, A extends object> extends Operator {
  (inputs: I, attrs: A): Tensor;
  /** As the call, for operators with several outputs. */
  all(inputs: I, attrs: A): readonly Tensor[];
  readonly definition: OpDefinition<I, A>;
}

// biome-ignore lint/suspicious/noExplicitAny: a node forgets its operator's type parameters; the definition that made it checked them.
export type AnyOp = Op<any, any>;

export function defineOp<I extends Operands, A extends object = Record<never, never>>(definition: OpDefinition<I, A>): Op<I, A> {
  const all = (inputs: I, attrs: A): readonly Tensor[] => {
    const types = definition.type(inputs, attrs);
    return currentGraph().add(op, inputs, attrs as Record<string, unknown>, Array.isArray(types) ? types : [types as TensorType]).outputs;
  };
  const op = ((inputs: I, attrs: A) => all(inputs, attrs)[0]!) as Op<I, A>;
  Object.defineProperty(op, "name", { value: definition.name });
  return Object.assign(op, { all, definition });
}

/** An error that names the operator, the module path and every operand's shape. */
export function shapeError(opName: string, operands: Operands, reason: string): EspalierError {
  const shapes = Object.entries(operands).map(([name, t]) => `${name} ${t ? `${t.dtype} ${formatShape(t.shape)}` : "absent"}`);
  const where = currentPath();
  return new EspalierError("shape-mismatch", `${where ? `${where}: ` : ""}${opName}(${shapes.join(", ")}): ${reason}`);
}

/** An axis counted from the end when negative, checked against the rank. */
export function normalizeAxis(axis: number, rank: number, opName: string, operands: Operands): number {
  const normal = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || normal < 0 || normal >= rank)
    throw shapeError(opName, operands, `axis ${axis} does not exist in a tensor of rank ${rank}`);
  return normal;
}

/** A type with the operand's dtype and another shape. */
export const typed = (like: TensorType | DType, shape: Shape): TensorType => ({
  dtype: typeof like === "string" ? like : like.dtype,
  shape,
});
