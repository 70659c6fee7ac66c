import { elementCount } from "./dims.ts";
import { allocate, type DType, isFloat, type TypedArray } from "./dtype.ts";
import { convertFloats } from "./dtype-conversion.ts";
import { EspalierError } from "./errors.ts";

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

/** Values computed whenever they are needed: a file's that must be dequantised or reordered first. */
export interface LazyStorage {
  kind: "lazy";
  dtype: DType;
  shape: readonly number[];
  /** The same values at every call. The array is not written to. */
  load(): TypedArray;
}

/** Another storage's values in another float type, rounded where that is narrower. Made by {@link converted}. */
export interface ConvertedStorage {
  kind: "converted";
  dtype: DType;
  shape: readonly number[];
  of: Storage;
}

/** Where the values of a parameter live. */
export type Storage = MemoryStorage | FileStorage | LazyStorage | ConvertedStorage;

/** The values of `storage` as `dtype`, both float types; nothing is computed yet. A storage of that type is returned as it is. */
export function converted(storage: Storage, dtype: DType): Storage {
  if (storage.dtype === dtype) return storage;
  if (!isFloat(storage.dtype) || !isFloat(dtype)) {
    throw new EspalierError(
      "dtype-conversion",
      `${storage.dtype} [${storage.shape}] cannot be held as ${dtype}: only float32, float16, bfloat16 and float64 are converted.`,
    );
  }
  return { kind: "converted", dtype, shape: storage.shape, of: storage };
}

/** Hands a file's values on, part by part; a part counts until the next one. How files are read is the platform's affair. */
export type FileReader = (storage: FileStorage, take: (part: TypedArray) => void) => void;

/** Elements converted at a time. */
const partLength = 1 << 18;

/** The values of a storage as `dtype`, part by part, so that a file's are never whole in memory. A part counts until the next one. */
export function streamValues(storage: Storage, dtype: DType, readFile: FileReader, take: (part: TypedArray) => void): void {
  const scratch = storage.dtype === dtype ? undefined : new Float32Array(Math.min(partLength, elementCount(storage.shape)));
  const takeConverted = (values: TypedArray) => {
    if (!scratch) return take(values);
    for (let i = 0; i < values.length; i += partLength) {
      const part = values.subarray(i, i + partLength);
      take(convertFloats(part, storage.dtype, dtype, scratch.subarray(0, part.length)));
    }
  };
  if (storage.kind === "file") readFile(storage, takeConverted);
  else if (storage.kind === "converted") streamValues(storage.of, storage.dtype, readFile, takeConverted);
  else takeConverted(heldValues(storage));
}

/** The values of a storage as `dtype`, in memory: an array that is so already is returned itself, not a copy. */
export function valuesOf(storage: Storage, dtype: DType, readFile: FileReader): TypedArray {
  if ((storage.kind === "memory" || storage.kind === "lazy") && storage.dtype === dtype) return heldValues(storage);
  const values = allocate(dtype, elementCount(storage.shape));
  let done = 0;
  streamValues(storage, dtype, readFile, (part) => {
    values.set(part as never, done);
    done += part.length;
  });
  return values;
}

function heldValues(storage: MemoryStorage | LazyStorage): TypedArray {
  if (storage.kind === "memory") return storage.data;
  const values = storage.load();
  const { dtype, shape } = storage;
  if (values.length === elementCount(shape) && values.constructor === allocate(dtype, 0).constructor) return values;
  throw new EspalierError(
    "storage-values",
    `A lazy storage of ${dtype} [${shape}] gave ${values.constructor.name} of ${values.length} elements; it must give ${allocate(dtype, 0).constructor.name} of ${elementCount(shape)}.`,
  );
}
