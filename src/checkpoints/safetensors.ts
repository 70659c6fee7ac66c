import { fstatSync } from "node:fs";
import { dtypeSize } from "../graph/dtype.ts";
import { EspalierError } from "../graph/errors.ts";
import type { FileStorage, Storage } from "../graph/storage.ts";
import { readFully, streamStorage, withFile } from "../runtime/stored-values.ts";
import { writeFileAtomically } from "./atomic-file.ts";
import { encodeHeader, maxHeaderBytes, parseHeader, prefixBytes, quoteName, safeElementCount } from "./safetensors-header.ts";

/** An open safetensors file: where each tensor lies. No value has been read. */
export interface SafetensorsFile {
  /** The free-form `__metadata__` strings; empty when the file has none. */
  metadata: Record<string, string>;
  tensors: Map<string, FileStorage>;
}

/** Tensors by name, as {@link writeSafetensors} and its callers take them. */
export type NamedStorages = ReadonlyMap<string, Storage> | Readonly<Record<string, Storage>>;

/**
 * Opens a safetensors file by reading its header only (milliseconds, whatever the size of the file) and checks everything that the
 * header claims.
 *
 * The storages name the real file behind symbolic links (a download cache is full of them), because ONNX Runtime maps external data
 * from real files only.
 *
 * @throws EspalierError `checkpoint-missing`, `-truncated`, `-header`, `-dtype`, `-shape`, `-offsets`, `-trailing`: naming file, tensor and numbers
 */
export function openSafetensors(file: string): SafetensorsFile {
  return withFile(file, (descriptor, path) => {
    const size = fstatSync(descriptor).size;
    const headerBytes = readHeaderLength(descriptor, size, file);
    const json = new Uint8Array(headerBytes);
    readFully(descriptor, json, prefixBytes, file);
    const dataStart = prefixBytes + headerBytes;
    const { metadata, tensors } = parseHeader(json, size - dataStart, file);
    const storages = new Map<string, FileStorage>();
    for (const [name, { dtype, shape, begin, end }] of tensors) {
      storages.set(name, { kind: "file", dtype, shape, file: path, offset: dataStart + begin, byteLength: end - begin });
    }
    return { metadata, tensors: storages };
  });
}

/**
 * Writes tensors to a safetensors file and returns it opened. File-backed storages are streamed, converted ones too, so a checkpoint of any
 * size costs a few megabytes; the old file stays until the new one is complete on the disk.
 *
 * Values start at a multiple of 64 bytes, larger elements first and then by name, so every tensor is aligned to its element size and
 * the same tensors always give the same bytes. Storages that pointed into a file written over must be replaced by the returned ones.
 *
 * @throws EspalierError `disk-full`, `not-writable` (the old file is intact), `checkpoint-shape`, `checkpoint-truncated` (a source changed)
 */
export function writeSafetensors(file: string, tensors: NamedStorages, metadata: Readonly<Record<string, string>> = {}): SafetensorsFile {
  const entries =
    tensors instanceof Map ? [...(tensors as ReadonlyMap<string, Storage>)] : Object.entries(tensors as Record<string, Storage>);
  const ordered = entries
    .map(([name, storage]) => [name, { ...storage, byteLength: checkedByteLength(name, storage, file) }] as const)
    .sort(([nameA, a], [nameB, b]) => dtypeSize[b.dtype] - dtypeSize[a.dtype] || (nameA < nameB ? -1 : 1));
  const header = encodeHeader(ordered, metadata);
  writeFileAtomically(file, (append) => {
    append(header);
    for (const [, storage] of ordered) streamStorage(storage, storage.dtype, append);
  });
  return openSafetensors(file);
}

function readHeaderLength(descriptor: number, size: number, file: string): number {
  if (size < prefixBytes) {
    throw new EspalierError(
      "checkpoint-truncated",
      `${file}: has ${size} bytes; a safetensors file starts with ${prefixBytes} bytes that give the length of its header. Fetch or save it again.`,
    );
  }
  const start = new Uint8Array(Math.min(size, 32));
  readFully(descriptor, start, 0, file);
  // What a clone without large-file support leaves behind: by far the commonest "corrupt" checkpoint.
  if (new TextDecoder().decode(start).startsWith("version https://git-lfs")) {
    throw new EspalierError(
      "checkpoint-truncated",
      `${file}: is a Git LFS pointer, not the weights. Run "git lfs pull" in its directory, or download the file itself.`,
    );
  }
  const length = new DataView(start.buffer).getBigUint64(0, true);
  const available = size - prefixBytes;
  if (length > BigInt(available)) {
    throw new EspalierError(
      "checkpoint-truncated",
      `${file}: announces a header of ${length} bytes, but only ${available} follow (the file has ${size}). It is cut short or not safetensors: fetch or save it again.`,
    );
  }
  if (length > BigInt(maxHeaderBytes)) {
    throw new EspalierError(
      "checkpoint-header",
      `${file}: announces a header of ${length} bytes; safetensors allows ${maxHeaderBytes}. It is damaged or not safetensors: fetch or save it again.`,
    );
  }
  return Number(length);
}

/** The byte length that shape and dtype ask for, or an error when the storage holds another number of values. */
function checkedByteLength(name: string, storage: Storage, file: string): number {
  const { dtype, shape } = storage;
  if (name === "__metadata__") {
    throw new EspalierError("checkpoint-header", `${file}: no tensor can be called "__metadata__", the format reserves it. Rename it.`);
  }
  const needed = (safeElementCount(shape) ?? Number.NaN) * dtypeSize[dtype];
  const held = storage.kind === "file" ? storage.byteLength : storage.kind === "memory" ? storage.data.byteLength : needed;
  if (needed !== held) {
    throw new EspalierError(
      "checkpoint-shape",
      `${file}: tensor ${quoteName(name)} cannot be written: ${dtype} [${shape.join(", ")}] needs ${needed} bytes, its storage holds ${held}. Give it the shape of its values.`,
    );
  }
  return held;
}
