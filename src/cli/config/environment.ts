import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus, totalmem } from "node:os";
import { version } from "../version.ts";

/** What a run was computed with; recorded in run.json. The last digits of a result depend on it. */
export const environment = () => ({
  espalier: version,
  node: process.version,
  onnxruntime: packageVersion("onnxruntime-node"),
  platform: `${process.platform} ${process.arch}`,
  processor: cpus()[0]?.model.trim() ?? "unknown",
  cores: availableParallelism(),
  memoryMB: Math.round(totalmem() / 1e6),
});

/** A package may keep its package.json to itself, so its directory is found by its entry. */
function packageVersion(name: string): string {
  try {
    const entry = createRequire(import.meta.url).resolve(name);
    const root = entry.slice(0, entry.lastIndexOf(`${name}/`) + name.length);
    return (JSON.parse(readFileSync(`${root}/package.json`, "utf8")) as { version: string }).version;
  } catch {
    return "unknown";
  }
}
