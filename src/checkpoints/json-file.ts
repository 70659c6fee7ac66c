import { readFileSync } from "node:fs";
import { EspalierError } from "../graph/errors.ts";
import { parseJson } from "../graph/parse-json.ts";
import { refuseIrregular } from "../runtime/regular-file.ts";
import { writeFileAtomically } from "./atomic-file.ts";

/** Reads a JSON file. The byte-order mark that some editors write is accepted. */
export function readJsonFile(file: string, prepared: (text: string) => string = (text) => text): unknown {
  let text: string;
  try {
    refuseIrregular(file);
    text = readFileSync(file, "utf8").replace(/^\ufeff/, "");
  } catch (cause) {
    throw new EspalierError("checkpoint-missing", `${file}: cannot be read (${(cause as Error).message}). Check the path.`, { cause });
  }
  try {
    return parseJson(prepared(text));
  } catch (cause) {
    throw new EspalierError("checkpoint-json", `${file}: is not valid JSON (${(cause as Error).message}). Fetch or write it again.`, {
      cause,
    });
  }
}

/** As {@link readJsonFile}, of a file that must hold an object. */
export function readJsonObject(file: string, prepared?: (text: string) => string): Record<string, unknown> {
  const value = readJsonFile(file, prepared);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const kind = Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
    throw new EspalierError("checkpoint-json", `${file}: must hold a JSON object, not ${kind}. Fetch or write it again.`);
  }
  return value as Record<string, unknown>;
}

/** Stands before a number that is kept as it was written. */
const mark = "\u0000";

/**
 * As {@link readJsonObject}, for an object that {@link writeJson} is to write again: whole numbers that stand there as 1.0 are strings in it, which are
 * written as 1.0. JavaScript would make 1 of them, and where Python expects a float it refuses an integer.
 */
export function readJsonToCopy(file: string): Record<string, unknown> {
  return readJsonObject(file, (text) =>
    text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
      /^-?\d.*[.eE]/.test(token) && Number.isInteger(Number(token)) ? JSON.stringify(mark + token) : token,
    ),
  );
}

/** A number that {@link writeJson} writes with a point: 1 as 1.0. */
export const jsonFloat = (value: number): number | string => (Number.isInteger(value) ? `${mark}${value.toFixed(1)}` : value);

const marked = new RegExp(`"${JSON.stringify(mark).slice(1, -1).replace("\\", "\\\\")}(-?\\d[\\d.eE+-]*)"`, "g");

/** Two spaces and a newline at the end, as the Hugging Face libraries write theirs, so that diffs between the two stay small. */
export function writeJson(file: string, value: unknown): void {
  const text = JSON.stringify(value, null, 2).replace(marked, "$1");
  writeFileAtomically(file, (append) => append(new TextEncoder().encode(`${text}\n`)));
}
