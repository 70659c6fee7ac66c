import { type Dim, type DType, EspalierError, formatShape, type Tensor } from "../../graph/index.ts";
import type { Operand } from "../../ops/index.ts";
import { dtypeOf } from "./element-types.ts";
import type { AttributeValue, OnnxGraph, OnnxNode, OnnxTensor } from "./model-file.ts";
import { type Content, numbersOf, type Value } from "./value.ts";

export type Result = Value | Tensor | undefined;
/** What a node of one operator computes: its outputs, those that are asked for. */
export type Rule = (node: NodeContext) => Result | readonly Result[];
export type Rules = Readonly<Record<string, Rule>>;

/** What a rule may ask of the evaluation around its node. */
export interface Surroundings {
  /** The values of a tensor attribute. */
  tensor(tensor: OnnxTensor): Value;
  /** Evaluates a branch in place. */
  inline(graph: OnnxGraph): Value[];
  /** The attributes of the function call around the node. */
  readonly attributes: ReadonlyMap<string, AttributeValue> | undefined;
  isRead(output: string): boolean;
  /** The layer that holds the node's weight, where the rule does the rest. */
  readonly layer: ((x: Tensor) => Tensor) | undefined;
}

/** One node as its rule sees it: inputs, attributes, and errors that name it. */
export class NodeContext {
  readonly node: OnnxNode;
  /** Version of the operator set that the node's domain is used in. */
  readonly opset: number;
  readonly inputs: readonly (Value | undefined)[];
  readonly #surroundings: Surroundings;

  constructor(node: OnnxNode, opset: number, inputs: readonly (Value | undefined)[], surroundings: Surroundings) {
    this.node = node;
    this.opset = opset;
    this.inputs = inputs;
    this.#surroundings = surroundings;
  }

  /** An error that names the node; `reason` is a sentence that ends without a full stop. */
  fail(reason: string, code = "onnx-node"): EspalierError {
    return new EspalierError(code, `${describe(this.node)}: ${reason}.`);
  }

  value(index: number): Value {
    const value = this.inputs[index];
    if (!value) throw this.fail(`input ${index} is missing`);
    return value;
  }

  tensor(index: number): Tensor {
    return this.value(index).tensor;
  }

  optional(index: number): Tensor | undefined {
    return this.inputs[index]?.tensor;
  }

  /** A known number where there is one, for operators that treat numbers better (x² is no logarithm), else the tensor. */
  operand(index: number): Operand {
    const value = this.value(index);
    return this.number(index) !== undefined && value.rank === 0 ? this.number(index)! : value.tensor;
  }

  /** The one element of an input, where it is known. */
  number(index: number): number | undefined {
    const values = numbersOf(this.inputs[index]?.content);
    return values?.length === 1 ? values[0] : undefined;
  }

  /** Elements of an input that must be known while tracing: sizes, bounds, axes. */
  dims(index: number, what: string): readonly Dim[] {
    const { elements } = this.value(index);
    if (elements) return elements.values;
    throw this.fail(
      `its ${what} (input ${index}, "${this.node.inputs[index]}") is computed in a way that cannot be followed before the graph runs. Give the sizes of the inputs as numbers, or export the model with fixed sizes`,
      "onnx-dynamic-shape",
    );
  }

  /** As {@link dims}, where symbols will not do. */
  numbers(index: number, what: string): readonly number[] {
    const values = this.dims(index, what);
    if (values.every((v): v is number => typeof v === "number")) return values;
    throw this.fail(
      `its ${what} [${values.map(String).join(", ")}] must be known as numbers. Give the sizes of the inputs as numbers`,
      "onnx-dynamic-shape",
    );
  }

  /** Axes, which were attributes once and are inputs since a later opset. */
  axes(input: number, name = "axes"): readonly number[] | undefined {
    return this.ints(name) ?? (this.inputs[input] && this.numbers(input, "axes"));
  }

  axis(axis: number, rank: number): number {
    const at = axis < 0 ? axis + rank : axis;
    if (!Number.isInteger(at) || at < 0 || at >= rank) throw this.fail(`axis ${axis} does not exist in a tensor of rank ${rank}`);
    return at;
  }

  int(name: string): number | undefined;
  int(name: string, fallback: number): number;
  int(name: string, fallback?: number): number | undefined {
    return (this.#attribute(name, "int") as number | undefined) ?? fallback;
  }

  float(name: string): number | undefined;
  float(name: string, fallback: number): number;
  float(name: string, fallback?: number): number | undefined {
    return (this.#attribute(name, "float") as number | undefined) ?? fallback;
  }

  string(name: string, fallback: string): string {
    return (this.#attribute(name, "string") as string | undefined) ?? fallback;
  }

  ints(name: string): readonly number[] | undefined {
    return this.#attribute(name, "ints") as readonly number[] | undefined;
  }

  floats(name: string): readonly number[] | undefined {
    return this.#attribute(name, "floats") as readonly number[] | undefined;
  }

  /** A tensor attribute's values. */
  constant(name: string): Value | undefined {
    const tensor = this.#attribute(name, "tensor") as OnnxTensor | undefined;
    return tensor && this.#surroundings.tensor(tensor);
  }

  /** An element type given by its number in onnx.proto. */
  dtype(name: string, fallback?: DType): DType {
    const code = this.int(name);
    if (code === undefined && fallback) return fallback;
    return dtypeOf(code ?? 0) ?? this.#fail(`its type (${name} = ${code}) is none that Espalier computes in`);
  }

  /** The outputs of a branch, evaluated in place. */
  branch(name: string): Value[] {
    const graph = this.#attribute(name, "graph") as OnnxGraph | undefined;
    if (!graph) throw this.fail(`the branch "${name}" is missing`);
    return this.#surroundings.inline(graph);
  }

  /** Whether output `index` has a reader. */
  wants(index: number): boolean {
    const name = this.node.outputs[index] ?? "";
    return name !== "" && this.#surroundings.isRead(name);
  }

  /** See {@link Surroundings.layer}. */
  get layer(): ((x: Tensor) => Tensor) | undefined {
    return this.#surroundings.layer;
  }

  #attribute(name: string, kind: AttributeValue["kind"]): unknown {
    let found = this.node.attributes.get(name);
    if (found?.kind === "reference") found = this.#surroundings.attributes?.get(found.value);
    if (!found) return undefined;
    if (found.kind !== kind) throw this.fail(`its attribute "${name}" must be ${kind}, not ${found.kind}`);
    return (found as { value: unknown }).value;
  }

  #fail(reason: string): never {
    throw this.fail(reason);
  }
}

/** `MatMul "/model/layers.0/self_attn/q_proj/MatMul"`, with the domain where it is not ONNX's. */
export function describe(node: OnnxNode): string {
  const op = node.domain ? `${node.domain}.${node.opType}` : node.opType;
  return `${op} "${node.name || node.outputs.find(Boolean) || ""}"`;
}

/** For messages: what an input is. */
export const shown = (value: Value): string => `${value.dtype} ${formatShape(value.shape)}`;

/** Elements known to be numbers, else undefined. */
export const known = (c: Content | undefined): readonly number[] | undefined => numbersOf(c);
