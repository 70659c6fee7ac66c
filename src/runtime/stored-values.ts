/** Values that lie in files, read into memory. */
import { closeSync, openSync, readSync, realpathSync } from "node:fs";
import {
  allocate,
  type DType,
  dtypeSize,
  EspalierError,
  type FileStorage,
  type Storage,
  streamValues,
  type TypedArray,
  valuesOf,
} from "../graph/index.ts";
import { rawBytes } from "../onnx/index.ts";
import { refuseIrregular } from "./regular-file.ts";

/** The values of a storage in memory, as `dtype`; an array that is there already is returned as it is (not copied). */
export const readStorage = (storage: Storage, dtype: DType = storage.dtype): TypedArray => valuesOf(storage, dtype, readFile);

/**
 * Hands on the bytes of a storage's values as `dtype`, part by part (a part counts until the next one): what lies in a file costs a few
 * megabytes, whatever its size.
 */
export function streamStorage(storage: Storage, dtype: DType, take: (bytes: Uint8Array) => void): void {
  streamValues(storage, dtype, readFile, (part) => take(rawBytes(part)));
}

/** Hands on a storage's values as float32, part by part; a part counts until the next one. */
export const streamFloats = (storage: Storage, take: (values: Float32Array) => void): void =>
  streamValues(storage, "float32", readFile, (part) => take(part as Float32Array));

const partBytes = 1 << 20;

function readFile({ dtype, file, offset, byteLength }: FileStorage, take: (part: TypedArray) => void): void {
  withFile(file, (descriptor) => {
    const part = allocate(dtype, Math.min(partBytes, byteLength) / dtypeSize[dtype]);
    for (let done = 0; done < byteLength; done += part.byteLength) {
      const values = part.subarray(0, Math.min(part.byteLength, byteLength - done) / dtypeSize[dtype]);
      readFully(descriptor, rawBytes(values), offset + done, file);
      take(values);
    }
  });
}

/** Fills `into` from a place of the file, or throws when the file ends before. */
export function readFully(descriptor: number, into: Uint8Array, offset: number, file: string): void {
  for (let done = 0; done < into.length; ) {
    const count = readSync(descriptor, into, done, Math.min(into.length - done, 1 << 30), offset + done);
    if (count === 0) {
      throw new EspalierError(
        "checkpoint-truncated",
        `${file}: ends at byte ${offset + done}, but ${into.length} bytes were expected from byte ${offset}. It was cut short or changed since it was opened: open it again.`,
      );
    }
    done += count;
  }
}

/** Opens a file for reading, with the operating system's refusals put into words. `path` is the real one, absolute. */
export function withFile<T>(file: string, use: (descriptor: number, path: string) => T): T {
  let descriptor: number;
  let path: string;
  try {
    path = realpathSync(file);
    refuseIrregular(path);
    descriptor = openSync(path, "r");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const what = code === "ENOENT" ? "there is no such file" : message;
    throw new EspalierError("checkpoint-missing", `${file}: cannot be read, ${what}. Check the path.`, { cause });
  }
  try {
    return use(descriptor, path);
  } finally {
    closeSync(descriptor);
  }
}
