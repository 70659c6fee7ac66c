/** Element types, named as safetensors and numpy users know them. */
export type DType = "float32" | "float16" | "bfloat16" | "float64" | "int64" | "int32" | "int8" | "uint8" | "bool";

/** Bytes per element. */
export const dtypeSize: Readonly<Record<DType, number>> = {
  float64: 8,
  int64: 8,
  float32: 4,
  int32: 4,
  float16: 2,
  bfloat16: 2,
  int8: 1,
  uint8: 1,
  bool: 1,
};

/** Host storage of a tensor. `float16` and `bfloat16` are kept as raw 16-bit patterns, `bool` as 0/1 bytes. */
export type TypedArray = Float32Array | Float64Array | BigInt64Array | Int32Array | Int8Array | Uint8Array | Uint16Array;

const arrayConstructors = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
} as const;

/** A zero-filled host array for `length` elements of `dtype`. */
export function allocate(dtype: DType, length: number): TypedArray {
  return new arrayConstructors[dtype](length);
}

export const isFloat = (dtype: DType): boolean => dtype.startsWith("float") || dtype === "bfloat16";
