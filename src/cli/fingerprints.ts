import { createHash } from "node:crypto";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { findGguf, GgufFile, openCheckpoint, readStorage } from "../checkpoints/index.ts";
import { EspalierError, type FileStorage } from "../graph/index.ts";

/** SHA-256 of what a run starts from; recorded in run.json, so that a resumed run cannot silently go on from something else. */
export interface Fingerprints {
  data: string;
  evalData?: string;
  model: string;
}

export function fingerprints({ data, evalData, model }: { data: string; evalData?: string; model: string }): Fingerprints {
  return { data: fileHash(data), ...(evalData !== undefined && { evalData: fileHash(evalData) }), model: modelHash(model) };
}

/** As `sha256sum` prints it; read in pieces, since data files may be large. */
function fileHash(file: string): string {
  const hash = createHash("sha256");
  try {
    const descriptor = openSync(file, "r");
    const piece = Buffer.alloc(1 << 20);
    for (let n = readSync(descriptor, piece); n > 0; n = readSync(descriptor, piece)) hash.update(piece.subarray(0, n));
    closeSync(descriptor);
  } catch (cause) {
    throw new EspalierError("data-unreadable", `${file}: cannot be read (${(cause as Error).message}).`, { cause });
  }
  return hash.digest("hex");
}

/** Of each tensor only the beginning is read: a base model may have gigabytes, and weights that were trained further differ everywhere. */
const sampledBytes = 1024;

/** Over the configuration, then name, type, shape and first bytes of every tensor in the order of the names, however the weights are sharded. */
function modelHash(model: string): string {
  const { config, configFile, tensors } = openCheckpoint(model);
  const gguf = findGguf(model);
  const hash = createHash("sha256").update(gguf === undefined ? readFileSync(configFile) : JSON.stringify(config));
  const stored = gguf === undefined ? tensors : storedTensors(gguf);
  for (const name of [...stored.keys()].sort()) {
    const storage = stored.get(name) as FileStorage;
    const length = Math.min(storage.byteLength, sampledBytes);
    hash.update(JSON.stringify([name, storage.dtype, storage.shape]));
    hash.update(readStorage({ ...storage, dtype: "uint8", shape: [length], byteLength: length }) as Uint8Array);
  }
  return hash.digest("hex");
}

/** As bytes of the file: quantised values need not be computed to tell models apart. */
function storedTensors(gguf: string): Map<string, FileStorage> {
  const { path: file, tensors } = GgufFile.open(gguf);
  return new Map(
    [...tensors].map(([name, { typeCode, offset, byteLength }]) => [
      `${name} ${typeCode}`,
      { kind: "file", dtype: "uint8", shape: [byteLength], file, offset, byteLength },
    ]),
  );
}
