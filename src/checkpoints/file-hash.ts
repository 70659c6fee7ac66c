import { createHash } from "node:crypto";
import { fstatSync, readSync } from "node:fs";
import { withFile } from "../runtime/stored-values.ts";

export interface FileHash {
  /** As `sha256sum` prints it. */
  sha256: string;
  bytes: number;
}

/** Reads a file of any size in pieces. */
export function hashFile(file: string): FileHash {
  return withFile(file, (descriptor) => {
    const hash = createHash("sha256");
    const piece = Buffer.alloc(1 << 20);
    for (let n = readSync(descriptor, piece); n > 0; n = readSync(descriptor, piece)) hash.update(piece.subarray(0, n));
    return { sha256: hash.digest("hex"), bytes: fstatSync(descriptor).size };
  });
}
