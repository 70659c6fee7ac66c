import { readFileSync } from "node:fs";
import { EspalierError } from "../graph/errors.ts";
import { writeFileAtomically } from "./atomic-file.ts";

/** Reads a JSON file. The byte-order mark that some editors write is accepted. */
export function readJsonFile(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, "utf8").replace(/^\ufeff/, "");
  } catch (cause) {
    throw new EspalierError("checkpoint-missing", `${file}: cannot be read (${(cause as Error).message}). Check the path.`, { cause });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new EspalierError("checkpoint-json", `${file}: is not valid JSON (${(cause as Error).message}). Fetch or write it again.`, {
      cause,
    });
  }
}

/** As {@link readJsonFile}, of a file that must hold an object. */
export function readJsonObject(file: string): Record<string, unknown> {
  const value = readJsonFile(file);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const kind = Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
    throw new EspalierError("checkpoint-json", `${file}: must hold a JSON object, not ${kind}. Fetch or write it again.`);
  }
  return value as Record<string, unknown>;
}

/** Two spaces and a newline at the end, as the Hugging Face libraries write theirs, so that diffs between the two stay small. */
export function writeJson(file: string, value: unknown): void {
  writeFileAtomically(file, (append) => append(new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`)));
}
