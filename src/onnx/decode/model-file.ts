/** An .onnx file as plain objects. Values of tensors stay where they are. */
import type { DType } from "../../graph/index.ts";

/** Where the values of a tensor are. */
export type TensorData =
  /** `byteLength` little-endian bytes from `offset` of the file on. */
  | { readonly kind: "raw"; readonly offset: number; readonly byteLength: number }
  /** Protocol-buffer numbers, packed or single, as they were in the file: read when they are needed. */
  | { readonly kind: "numbers"; readonly of: NumberField; readonly parts: readonly Uint8Array[] }
  /** In another file. A length of undefined: all the shape asks for. */
  | { readonly kind: "external"; readonly location: string; readonly offset: number; readonly byteLength: number | undefined };

export type NumberField = "float" | "int32" | "int64" | "double" | "uint64";

/** Element types that we compute in, and packed ones that are unpacked into bytes. */
export type StoredType = DType | "int4" | "uint4";

export interface OnnxTensor {
  readonly name: string;
  /** Undefined for a type that Espalier does not know; `typeCode` names it. */
  readonly dtype: StoredType | undefined;
  readonly typeCode: number;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

export type AttributeValue =
  | { readonly kind: "int"; readonly value: number }
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "ints"; readonly value: readonly number[] }
  | { readonly kind: "floats"; readonly value: readonly number[] }
  | { readonly kind: "strings"; readonly value: readonly string[] }
  | { readonly kind: "tensor"; readonly value: OnnxTensor }
  | { readonly kind: "graph"; readonly value: OnnxGraph }
  /** Within a function: the attribute of the call that is meant. */
  | { readonly kind: "reference"; readonly value: string }
  | { readonly kind: "other" };

export interface OnnxNode {
  readonly opType: string;
  /** `""` is ONNX's own operator set. */
  readonly domain: string;
  readonly name: string;
  /** An empty name is an input or output that is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, AttributeValue>;
  readonly metadata: ReadonlyMap<string, string>;
}

export interface OnnxValueInfo {
  readonly name: string;
  readonly dtype: DType | undefined;
  readonly typeCode: number;
  /** Numbers, names of dimensions, or undefined for one without a name; undefined as a whole where the rank is unknown. */
  readonly shape: readonly (number | string | undefined)[] | undefined;
}

export interface OnnxGraph {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: ReadonlyMap<string, OnnxTensor>;
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
}

/** A function local to the model: a node of its name means its nodes. */
export interface OnnxFunction {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly nodes: readonly OnnxNode[];
  readonly defaults: ReadonlyMap<string, AttributeValue>;
}

export interface OnnxFile {
  /** For messages: the path, or whatever the caller calls the bytes. */
  readonly file: string;
  readonly graph: OnnxGraph;
  /** Version of each operator set, by domain. */
  readonly opsets: ReadonlyMap<string, number>;
  /** By `domain:name`. */
  readonly functions: ReadonlyMap<string, OnnxFunction>;
  readonly producer: string;
}
