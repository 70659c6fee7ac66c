/** Values that lie in files, read into memory. */
import { closeSync, fstatSync, openSync, readSync, realpathSync } from "node:fs";
import { allocate, dtypeSize, EspalierError, type Storage, type TypedArray } from "../graph/index.ts";
import { rawBytes } from "../onnx/index.ts";

/** The values of a storage in memory: a file's are copied in, an array already in memory is returned as it is (not copied). */
export function readStorage(storage: Storage): TypedArray {
  if (storage.kind === "memory") return storage.data;
  const values = allocate(storage.dtype, storage.byteLength / dtypeSize[storage.dtype]);
  withFile(storage.file, (descriptor) => readFully(descriptor, rawBytes(values), storage.offset, storage.file));
  return values;
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
    descriptor = openSync(path, "r");
    if (fstatSync(descriptor).isDirectory()) {
      closeSync(descriptor);
      throw Object.assign(new Error("it is a directory"), { code: "EISDIR" });
    }
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const what = code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "it is a directory" : message;
    throw new EspalierError("checkpoint-missing", `${file}: cannot be read, ${what}. Check the path.`, { cause });
  }
  try {
    return use(descriptor, path);
  } finally {
    closeSync(descriptor);
  }
}
