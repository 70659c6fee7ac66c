import { EspalierError } from "../graph/errors.ts";
import { parseJson } from "../graph/parse-json.ts";
import { dataFiles, dataFormat } from "./data-files.ts";
import { ParquetFile } from "./parquet-file.ts";
import { fileRows } from "./rows.ts";
import { readTextFile } from "./text-file.ts";

/**
 * What the first line or row of a data file holds (of the first of several, see {@link dataFiles}), to guess what the data are for; undefined for a
 * .txt file, and for a line that whoever reads the data will complain of.
 */
export function firstRecord(path: string): Record<string, unknown> | undefined {
  const [file] = dataFiles(path) as [string];
  const format = dataFormat(file);
  if (format === ".txt") return undefined;
  if (format === ".parquet") return firstParquetRow(file);
  const value = format === ".csv" ? firstCsvRow(file) : firstObject(readTextFile(file));
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
}

function firstObject(text: string): unknown {
  const line = /^.*\S.*$/m.exec(text)?.[0];
  try {
    return parseJson(line ?? "");
  } catch {
    return undefined;
  }
}

function firstCsvRow(file: string): unknown {
  try {
    return fileRows(file, { like: "text,label" }).rows[0]?.value;
  } catch (error) {
    if (error instanceof EspalierError) return undefined;
    throw error;
  }
}

function firstParquetRow(file: string): Record<string, unknown> | undefined {
  const parquet = new ParquetFile(file);
  try {
    const group = parquet.groupSizes.findIndex((size) => size > 0);
    return group < 0 ? undefined : parquet.rows(group)[0];
  } finally {
    parquet.close();
  }
}
