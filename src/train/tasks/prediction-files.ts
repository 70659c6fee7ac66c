/** Files to predict from, as text tasks read them. */
import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { EspalierError } from "../../graph/index.ts";
import { messageText } from "../../inputs/email/message.ts";
import { exampleRows, textOf } from "./example-rows.ts";
import type { PredictionInput } from "./kind.ts";

const records: ReadonlySet<string> = new Set([".jsonl", ".csv", ".parquet"]);

export const holdsRecords = (file: string): boolean => records.has(extname(file.replace(/\.gz$/i, "")).toLowerCase());

/**
 * The texts of a data file, of an e-mail (.eml), or a whole file as one text.
 * @param columnOf the column that holds the text of a row, which training read it from
 */
export async function readTexts(
  file: string,
  columnOf: (row: Readonly<Record<string, unknown>>) => string,
): Promise<PredictionInput<string>[]> {
  if (holdsRecords(file))
    return exampleRows(file, JSON.stringify({ [columnOf({})]: "…" }), (row, place) => {
      const read = textOf(row, columnOf(row));
      return "wrong" in read ? read.wrong : { input: read.text, ...place };
    });
  const bytes = readInput(file);
  const text = file.toLowerCase().endsWith(".eml") ? await messageText(bytes) : bytes.toString("utf8");
  if (text.trim() === "") throw new EspalierError("empty-text", `${file} holds no text.`);
  return [{ input: text, file }];
}

export function readInput(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new EspalierError("file-missing", `${file} cannot be read (${(cause as NodeJS.ErrnoException).code}).`, { cause });
  }
}
