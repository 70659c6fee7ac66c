import { EspalierError } from "../graph/errors.ts";
import { dataFiles } from "./data-files.ts";
import { type Problem, printable, refuseProblems, unitOf } from "./json-lines.ts";
import type { Example } from "./records.ts";
import { fileRows, type Row } from "./rows.ts";

/** Texts that belong together, or how much two of them do. Its `text`, by which examples are compared, is all of them. */
export interface TextPair extends Example {
  /** Anchor, positive and hard negatives; or, where there is a score, two texts. */
  texts: readonly string[];
  /** How alike the two are, in [−1, 1]. */
  score?: number;
}

const like = '{"anchor": "…", "positive": "…"} or {"text1": "…", "text2": "…", "score": 0.8}';
const pairKeys = ["anchor", "positive"] as const;
const scoredKeys = [
  ["text1", "text2"],
  ["sentence1", "sentence2"],
] as const;
const wanted = [...pairKeys, "negative", "negatives", ...scoredKeys.flat(), "score"];

/** Whether a record looks like a pair. */
export const isTextPair = (record: Readonly<Record<string, unknown>>): boolean => keysOf(record) !== undefined;

const keysOf = (record: Readonly<Record<string, unknown>>): readonly [string, string] | undefined =>
  [pairKeys, ...scoredKeys].find((keys) => keys.every((key) => typeof record[key] === "string"));

/**
 * Reads pairs of texts from .jsonl, .csv or .parquet files: `{"anchor": "…", "positive": "…"}`, perhaps with a hard `"negative"` or a list of
 * `"negatives"`, as many in every record; or `{"text1": "…", "text2": "…", "score": 0.8}` (also `sentence1` and `sentence2`), with scores in [−1, 1].
 *
 * @throws EspalierError `data-pairs` and what reading records throws; the message counts the other broken lines
 */
export function readTextPairs(path: string): TextPair[] {
  const pairs = dataFiles(path).flatMap((file) => {
    const { rows, problems } = fileRows(file, { like, wanted });
    const read = rows.flatMap((row): TextPair[] => {
      const pair = pairOf(row);
      if ("texts" in pair) return [{ ...pair, text: pair.texts.join("\n"), file, line: row.line }];
      problems.push({ line: row.line, code: "data-pairs", reason: pair.reason });
      return [];
    });
    refuseProblems(file, problems.sort(byLine));
    return read;
  });
  const [first] = pairs as [TextPair];
  const kind = (pair: TextPair) => `${pair.texts.length} texts ${pair.score === undefined ? "and no score" : "and a score"}`;
  const other = pairs.find((pair) => kind(pair) !== kind(first));
  if (other)
    throw new EspalierError(
      "data-pairs",
      `${other.file} ${unitOf(other.file)} ${other.line}: has ${kind(other)}, but ${unitOf(first.file)} ${first.line} has ${kind(first)}. Every record must have as many.`,
    );
  return pairs;
}

const byLine = (a: Problem, b: Problem): number => a.line - b.line;

function pairOf({ value }: Row): { texts: string[]; score?: number } | { reason: string } {
  const keys = keysOf(value);
  if (!keys) return { reason: `has no pair of texts; each record must be one such as ${like}` };
  const texts = keys.map((key) => value[key] as string);
  if (keys === pairKeys) {
    const more = value.negatives ?? (value.negative === undefined || value.negative === null ? [] : [value.negative]);
    if (!Array.isArray(more) || more.some((text) => typeof text !== "string"))
      return { reason: '"negative" must be a string, and "negatives" a list of strings' };
    texts.push(...(more as string[]));
  }
  const empty = texts.findIndex((text) => text.trim() === "");
  if (empty >= 0) return { reason: `text ${empty + 1} is empty; remove the record or give it a text` };
  if (keys === pairKeys) return { texts };
  const score = typeof value.score === "string" && value.score.trim() !== "" ? Number(value.score) : value.score;
  if (typeof score !== "number" || !(score >= -1 && score <= 1))
    return {
      reason: `"score" is ${printable(JSON.stringify(value.score) ?? "missing")}; it must be a number from -1 to 1 (divide scores from 0 to 5 by 5)`,
    };
  return { texts, score };
}
