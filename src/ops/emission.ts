import type { Dim, DType, Graph, Shape, Tensor, TypedArray } from "../graph/index.ts";

/** Execution providers of ONNX Runtime that a graph can be emitted for, and `onnx`: standard operators only, for any reader of ONNX. */
export type Provider = "cpu" | "wasm" | "webgpu" | "onnx";

/** An attribute of an ONNX node. Integers and floats are told apart by wrapping floats in {@link float}. */
export type Attribute =
  | number
  | readonly number[]
  | string
  | { readonly float: number }
  | { readonly floats: readonly number[] }
  | GraphAttribute
  | { readonly dtype: DType };

/** A graph inside a node. It may read the values of the graphs around it. */
export interface GraphAttribute {
  readonly graph: Graph;
  readonly results: readonly Tensor[];
  /** Leaves of `graph` that the node feeds, in ONNX's order: the slices and states of a Scan. */
  readonly inputs?: readonly Tensor[];
  /** Leaves of `graph` that stand for values outside of it. */
  readonly outer?: ReadonlyMap<Tensor, Ref>;
}

/** A value in the ONNX graph to be: the result of a node, a literal, a shape vector, or a tensor of ours. */
export type Ref =
  | { readonly kind: "tensor"; readonly tensor: Tensor }
  | { readonly kind: "literal"; readonly dtype: DType; readonly shape: readonly number[]; readonly data: TypedArray }
  | { readonly kind: "dims"; readonly dims: Shape }
  | { readonly kind: "result"; readonly of: EmittedNode; readonly index: number };

export interface EmittedNode {
  readonly opType: string;
  readonly domain: string;
  readonly inputs: readonly (Ref | undefined)[];
  readonly attributes: Readonly<Record<string, Attribute>>;
  readonly outputCount: number;
}

interface NodeOptions {
  /** Operator set; `""` is ONNX's own. */
  domain?: string;
  outputs?: number;
}

/** The first result of a new ONNX node. */
export function node(
  opType: string,
  inputs: readonly (Ref | undefined)[],
  attributes: Record<string, Attribute> = {},
  options: NodeOptions = {},
): Ref {
  return { kind: "result", of: { opType, domain: options.domain ?? "", inputs, attributes, outputCount: options.outputs ?? 1 }, index: 0 };
}

/** A further result of the node behind `ref`. */
export function result(ref: Ref, index: number): Ref {
  if (ref.kind !== "result") throw new Error("only a node has several results");
  return { ...ref, index };
}

/** ONNX Runtime's own operator set. */
export const contrib: NodeOptions = { domain: "com.microsoft" };

export const float = (value: number): Attribute => ({ float: value });

/** A one-dimensional int64 literal, as ONNX takes axes and pads. */
export const int64s = (values: readonly number[]): Ref => ({
  kind: "literal",
  dtype: "int64",
  shape: [values.length],
  data: BigInt64Array.from(values, BigInt),
});

/** A scalar literal of a float or integer type. */
export function scalar(dtype: DType, value: number): Ref {
  return { kind: "literal", dtype, shape: [], data: scalarData(dtype, value) };
}

export function scalarData(dtype: DType, value: number): TypedArray {
  switch (dtype) {
    case "float32":
      return Float32Array.of(value);
    case "float64":
      return Float64Array.of(value);
    case "int64":
      return BigInt64Array.of(BigInt(value));
    case "int32":
      return Int32Array.of(value);
    case "int8":
      return Int8Array.of(value);
    case "uint8":
    case "bool":
      return Uint8Array.of(value);
    case "float16":
      return Uint16Array.of(float16Bits(value));
    case "bfloat16":
      return Uint16Array.of(bfloat16Bits(value));
  }
}

/** A shape as an int64 vector; symbols are read from the graph's inputs at run time. */
export const dims = (shape: readonly Dim[]): Ref => ({ kind: "dims", dims: shape });

const float32Bits = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]!;

/** The upper half of the float32 pattern, rounded to nearest even. */
function bfloat16Bits(value: number): number {
  const bits = float32Bits(value);
  return Number.isNaN(value) ? 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** Rounded to nearest even; too large a number becomes infinite, as in IEEE 754. */
function float16Bits(value: number): number {
  const sign = (float32Bits(value) >>> 16) & 0x8000;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const steps = size / 2 ** (exponent - 10); // in units of the last place: 1024 … 2047, below that subnormal
  const whole = Math.floor(steps);
  const rounded = whole + (steps - whole > 0.5 || (steps - whole === 0.5 && whole % 2 === 1) ? 1 : 0);
  return sign | Math.min(rounded + (exponent + 14) * 1024, 0x7c00);
}
