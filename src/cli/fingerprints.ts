import { createHash } from "node:crypto";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint, readStorage } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/index.ts";

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

/** Over config.json, then name, type, shape and first bytes of every tensor in the order of the names, however the weights are sharded. */
function modelHash(directory: string): string {
  const hash = createHash("sha256").update(readFileSync(join(directory, "config.json")));
  const { tensors } = openCheckpoint(directory);
  for (const name of [...tensors.keys()].sort()) {
    const storage = tensors.get(name)!;
    const length = Math.min(storage.byteLength, sampledBytes);
    hash.update(JSON.stringify([name, storage.dtype, storage.shape]));
    hash.update(readStorage({ ...storage, dtype: "uint8", shape: [length], byteLength: length }) as Uint8Array);
  }
  return hash.digest("hex");
}
