import { EspalierError } from "../graph/errors.ts";
import { parseJson } from "../graph/parse-json.ts";
import { dataFiles, dataFormat } from "./data-files.ts";
import { ParquetFile } from "./parquet-file.ts";
import { RecordFile } from "./record-file.ts";
import { fileRows } from "./rows.ts";
import { readTextFile } from "./text-file.ts";

/**
 * What the first line or row of a data file holds (of the first of several, see {@link dataFiles}), to guess what the data are for; undefined for a
 * .txt file, and for a line that whoever reads the data will complain of.
 */
export function firstRecord(path: string, wanted?: readonly string[]): Record<string, unknown> | undefined {
  const [file] = dataFiles(path) as [string];
  const format = dataFormat(file);
  if (format === ".txt") return undefined;
  if (format === ".parquet") return firstParquetRow(file, wanted);
  // A compressed file has no way into it but from its beginning to its end.
  const value = /\.gz$/i.test(file) ? (format === ".csv" ? firstCsvRow(file) : firstObject(readTextFile(file))) : firstOfPieces(file);
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
}

function firstOfPieces(file: string): unknown {
  const records = new RecordFile(file, { like: "" });
  try {
    for (const { rows } of records.pieces()) {
      const [row, problem] = [rows.rows[0], rows.problems[0]];
      if (row || problem) return problem && problem.line < (row?.line ?? Number.POSITIVE_INFINITY) ? undefined : row?.value;
    }
    return undefined;
  } catch (error) {
    if (error instanceof EspalierError) return undefined;
    throw error;
  } finally {
    records.close();
  }
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

function firstParquetRow(file: string, wanted?: readonly string[]): Record<string, unknown> | undefined {
  const parquet = new ParquetFile(file);
  try {
    const group = parquet.groupSizes.findIndex((size) => size > 0);
    return group < 0 ? undefined : parquet.rows(group, wanted)[0];
  } finally {
    parquet.close();
  }
}
