/** The full disk where no file system can be mounted: after a while the writes go to /dev/full, whose ENOSPC is the kernel's own. */
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync, type writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { EspalierError } from "../graph/errors.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { openCheckpoint, saveCheckpoint } from "./hf-directory.ts";

const disk = vi.hoisted(() => ({ left: Number.POSITIVE_INFINITY, full: -1 }));

vi.mock("node:fs", async (importActual) => {
  const actual = await importActual<typeof import("node:fs")>();
  const write = (descriptor: number, bytes: Uint8Array, offset: number, length: number) => {
    if (disk.left === 0) return actual.writeSync(disk.full, bytes, offset, length);
    const written = actual.writeSync(descriptor, bytes, offset, Math.min(length, disk.left));
    disk.left -= written;
    return written;
  };
  return { ...actual, writeSync: write as typeof writeSync };
});

const hasFullDevice = existsSync("/dev/full");
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-full-"));
  if (hasFullDevice) disk.full = openSync("/dev/full", "w");
});
afterAll(() => {
  if (hasFullDevice) closeSync(disk.full);
  rmSync(directory, { recursive: true });
});

test.skipIf(!hasFullDevice)(
  "wherever the disk fills up, the old checkpoint opens with its old values and nothing is left beside it",
  () => {
    const tensors = (value: number) => ({
      w: { kind: "memory" as const, dtype: "float32" as const, shape: [50], data: new Float32Array(50).fill(value) },
    });
    saveCheckpoint(directory, { config: { model_type: "llama", old: true }, tensors: tensors(1) });
    const names = readdirSync(directory);
    // In the header, at the first value, within the values.
    for (const left of [0, 5, 128, 129, 300]) {
      disk.left = left;
      let refused: unknown;
      try {
        saveCheckpoint(directory, { config: { model_type: "llama", old: false }, tensors: tensors(2) });
      } catch (error) {
        refused = error;
      }
      disk.left = Number.POSITIVE_INFINITY;
      expect(refused).toBeInstanceOf(EspalierError);
      expect((refused as EspalierError).code).toBe("disk-full");
      expect((refused as EspalierError).message).toMatch(/model\.safetensors: cannot be written, the disk or quota is full \(ENOSPC\)/);
      expect(readdirSync(directory)).toEqual(names);
      const { config, tensors: old } = openCheckpoint(directory);
      expect(config).toEqual({ model_type: "llama", old: true });
      expect(readStorage(old.get("w")!)).toEqual(new Float32Array(50).fill(1));
    }
  },
);
