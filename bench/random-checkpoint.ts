import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ShapeName } from "./shapes.ts";

export interface RandomCheckpoint {
  directory: string;
  /** Of the weights. */
  bytes: number;
  remove(): void;
}

/** A checkpoint of random weights in a scratch directory. Another process writes it, so that its arrays do not blur the memory measured in this one. */
export function randomCheckpoint(shape: ShapeName, layers: number, dtype: "float32" | "bfloat16"): RandomCheckpoint {
  const directory = mkdtempSync(join(tmpdir(), "espalier-bench-"));
  const remove = () => rmSync(directory, { recursive: true, force: true });
  const written = spawnSync(process.execPath, ["--import", "tsx", "bench/write-checkpoint.ts", directory, shape, String(layers), dtype], {
    encoding: "utf8",
  });
  if (written.status === 0) return { directory, bytes: Number(written.stdout), remove };
  remove();
  throw new Error(`the checkpoint could not be written: ${written.stderr}`);
}
