import { EspalierError } from "../graph/errors.ts";
import { csvRows } from "./csv-rows.ts";
import { dataFormat } from "./data-files.ts";
import { jsonLines, type Problem } from "./json-lines.ts";
import { ParquetFile } from "./parquet-file.ts";
import { readTextFile } from "./text-file.ts";

/** What one line or row holds, by key or column. */
export interface Row {
  value: Record<string, unknown>;
  /** The line that it begins on, from 1; of a Parquet file, the row. */
  line: number;
}

/** The rows of a file or of a part of it, and what is wrong with the others. */
export interface Rows {
  rows: Row[];
  problems: Problem[];
  /** The columns of a format that names them, and of a CSV file the header's line. */
  columns?: readonly string[];
  header?: number;
}

export interface RowOptions {
  /** What a line looks like, for messages: `{"text": "…"}`. */
  like: string;
  /** The columns that are looked at. Parquet files are read only there. Default all. */
  wanted?: readonly string[];
}

/**
 * All rows of a .jsonl, .csv or .parquet file.
 * @throws EspalierError `data-empty`, `data-extension`, and what the formats throw
 */
export function fileRows(file: string, options: RowOptions): Rows {
  const format = dataFormat(file);
  if (format === ".txt")
    throw new EspalierError(
      "data-extension",
      `${file}: is a text, and records such as ${options.like} are wanted. Give a .jsonl, .csv or .parquet file.`,
    );
  if (format === ".parquet") return parquetRows(file, options);
  const text = readTextFile(file);
  if (text.trim() === "") throw new EspalierError("data-empty", `${file}: is empty. Give a file with at least one example.`);
  const rows = format === ".csv" ? csvFileRows(text, file) : jsonRows(text, options.like);
  if (rows.rows.length === 0 && rows.problems.length === 0)
    throw new EspalierError("data-empty", `${file}: has a header and no rows. Give a file with at least one example.`);
  return rows;
}

export function jsonRows(text: string, like: string, firstLine = 1): Rows {
  const { objects, problems } = jsonLines(text, like, firstLine);
  return { rows: objects, problems };
}

function csvFileRows(text: string, file: string): Rows {
  const {
    rows: [header, ...rows],
    problems,
  } = csvRows(text, file);
  return csvRecords(
    header!.cells.map((cell) => cell.trim()),
    header!.line,
    rows,
    problems,
  );
}

/** Rows of cells as records of the columns. */
export function csvRecords(
  columns: readonly string[],
  header: number,
  rows: readonly { cells: string[]; line: number }[],
  problems: Problem[],
): Rows {
  const records: Rows = { rows: [], problems, columns, header };
  for (const { cells, line } of rows) {
    if (cells.length === columns.length)
      records.rows.push({ value: Object.fromEntries(columns.map((column, i) => [column, cells[i]!])), line });
    else {
      const reason = `has ${cells.length} cells where the header has ${columns.length} columns; put cells that hold commas or line ends in quotes`;
      records.problems.push({ line, code: "data-csv", reason });
    }
  }
  return records;
}

function parquetRows(file: string, { wanted }: RowOptions): Rows {
  const parquet = new ParquetFile(file);
  try {
    const rows = parquet.groupSizes.flatMap((_, group) => parquet.rows(group, wanted)).map((value, i) => ({ value, line: i + 1 }));
    if (rows.length === 0) throw new EspalierError("data-empty", `${file}: has no rows. Give a file with at least one example.`);
    return { rows, problems: [], columns: parquet.columns };
  } finally {
    parquet.close();
  }
}
