import type { DType, TypedArray } from "./dtype.ts";

/** Values held in memory. `data.length` is the product of `shape`; see {@link TypedArray} for 16-bit floats. */
export interface MemoryStorage {
  kind: "memory";
  dtype: DType;
  shape: readonly number[];
  data: TypedArray;
}

/** Values that stay in a file (little-endian, contiguous), to be mapped and never copied. */
export interface FileStorage {
  kind: "file";
  dtype: DType;
  shape: readonly number[];
  /** Absolute path of the file. */
  file: string;
  /** First byte of the values in the file. */
  offset: number;
  /** Length in bytes. */
  byteLength: number;
}

/** Where the values of a parameter live. */
export type Storage = MemoryStorage | FileStorage;
