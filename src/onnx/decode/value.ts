import {
  allocate,
  currentGraph,
  type Dim,
  type DType,
  elementCount,
  isFloat,
  type Shape,
  type Tensor,
  type TensorType,
} from "../../graph/index.ts";
import { cast, concat, dimension, reshape } from "../../ops/index.ts";

/**
 * The elements of a small tensor as far as they are known while tracing. Exporters compute shapes in the graph (Shape → Gather → Concat → Reshape);
 * here such integers are dims, so that a symbol stays one. Floats are numbers, bools 0 or 1.
 */
export interface Content {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Row-major. */
  readonly values: readonly Dim[];
}

/** A larger tensor is not looked into. */
export const maxContent = 4096;

/** A value of an ONNX graph: a tensor of ours, and its elements where they are known. */
export class Value implements TensorType {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly content: Content | undefined;
  #tensor: Tensor | (() => Tensor);
  readonly #stored: (() => Content | undefined) | undefined;

  private constructor(
    { dtype, shape }: TensorType,
    tensor: Tensor | (() => Tensor),
    content?: Content,
    stored?: () => Content | undefined,
  ) {
    this.dtype = dtype;
    this.shape = shape;
    this.#tensor = tensor;
    this.content = content;
    this.#stored = stored;
  }

  static of(tensor: Tensor): Value {
    return new Value(tensor, tensor);
  }

  /** A value that becomes a tensor only when an operator reads it: shape arithmetic leaves no nodes behind. */
  static known(content: Content): Value {
    return new Value(content, () => literal(content), content);
  }

  /** A weight: `stored` gives its elements to operators that cannot do without (a table of sizes that looks like a weight), and is not asked by others. */
  static weight(type: TensorType, tensor: () => Tensor, stored: () => Content | undefined): Value {
    return new Value(type, tensor, undefined, stored);
  }

  /** The elements, also where nothing is computed from them while tracing. */
  get elements(): Content | undefined {
    return this.content ?? this.#stored?.();
  }

  get tensor(): Tensor {
    if (typeof this.#tensor === "function") this.#tensor = this.#tensor();
    return this.#tensor;
  }

  get rank(): number {
    return this.shape.length;
  }
}

function literal({ dtype, shape, values }: Content): Tensor {
  if (values.every((v): v is number => typeof v === "number")) {
    const data = allocate(dtype, values.length);
    for (const [i, v] of values.entries()) data[i] = dtype === "int64" ? int64(v) : v;
    return currentGraph().constant(dtype, shape, data);
  }
  const elements = values.map((v) =>
    reshape(typeof v === "number" ? literal({ dtype: "int64", shape: [], values: [v] }) : dimension(v), [1]),
  );
  return cast(reshape(concat(elements, 0), shape), dtype);
}

/** Bounds of slices are often the largest or smallest int64, which no double is. */
function int64(value: number): bigint {
  if (value >= 2 ** 63) return 2n ** 63n - 1n;
  return value <= -(2 ** 63) ? -(2n ** 63n) : BigInt(Math.trunc(value));
}

/** The content of numbers only. */
export function numbersOf(content: Content | undefined): readonly number[] | undefined {
  return content?.values.every((v) => typeof v === "number") ? (content.values as readonly number[]) : undefined;
}

/** Known elements of a type: floats are rounded to it. */
export function content(dtype: DType, shape: readonly number[], values: readonly Dim[]): Content {
  if (values.length !== elementCount(shape)) throw new Error(`${values.length} values do not fill [${shape}]`);
  return { dtype, shape, values: isFloat(dtype) && dtype !== "float64" ? values.map((v) => Math.fround(v as number)) : values };
}

export const scalarContent = (dtype: DType, value: Dim): Content => content(dtype, [], [value]);
export const vectorContent = (values: readonly Dim[]): Content => content("int64", [values.length], values);
