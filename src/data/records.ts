import { extname } from "node:path";
import { CsvError, parse } from "csv-parse/sync";
import { EspalierError, nearestNames } from "../graph/errors.ts";
import { readTextFile, statFile } from "./text-file.ts";

/** One text, with its label where the file gives one, and where it stands. */
export interface Example {
  text: string;
  label?: string;
  file: string;
  /** From 1; of a CSV record that spans lines, the first. */
  line: number;
}

export interface ReadOptions {
  /** The key or column that holds the text, "text" unless told. */
  textColumn?: string;
  /** The key or column that holds the label, "label" unless told. A file may lack it, unless it is named here. */
  labelColumn?: string;
}

/** What is wrong with one line. All lines are read before the first is reported, so that the message can say how many there are. */
interface Problem {
  line: number;
  code: string;
  reason: string;
}

interface Records {
  examples: Example[];
  problems: Problem[];
}

const formats: Record<string, (text: string, file: string, options: ReadOptions) => Records> = {
  ".jsonl": jsonl,
  ".csv": csv,
  ".txt": txt,
};

/**
 * Reads the examples of a data file, by its extension:
 * `.jsonl` holds one JSON object a line, `{"text": "…", "label": "…"}`; a label may also be a number or a boolean, and is read as a string.
 * `.csv` has a header row that names its columns.
 * `.txt` is one example: the whole text, for language modelling.
 *
 * Either every example has a label or none has. Blank lines are skipped; CRLF and a byte-order mark are accepted.
 */
export function readExamples(file: string, options: ReadOptions = {}): Example[] {
  statFile(file);
  const extension = extname(file).toLowerCase();
  if (!Object.hasOwn(formats, extension)) {
    const found = extension === "" ? "has no extension" : `has the extension "${extension}"`;
    throw new EspalierError("data-extension", `${file}: ${found}, but the format is told by it. Name the file .jsonl, .csv or .txt.`);
  }
  const text = readTextFile(file);
  if (text.trim() === "") throw new EspalierError("data-empty", `${file}: is empty. Give a file with at least one example.`);
  const { examples, problems } = formats[extension]!(text, file, options);
  refuseProblems(file, problems);
  if (examples.length === 0) {
    throw new EspalierError("data-empty", `${file}: has a header and no rows. Give a file with at least one example.`);
  }
  if (extension !== ".txt") refuseHalfLabelled(file, examples, options);
  return examples;
}

function txt(text: string, file: string): Records {
  return { examples: [{ text, file, line: 1 }], problems: [] };
}

function jsonl(text: string, file: string, options: ReadOptions): Records {
  const records: Records = { examples: [], problems: [] };
  for (const [index, content] of text.split("\n").entries()) {
    if (content.trim() === "") continue;
    const line = index + 1;
    let value: unknown;
    try {
      value = JSON.parse(content);
    } catch (error) {
      records.problems.push({ line, code: "data-json", reason: `is not valid JSON: ${printable((error as Error).message)}` });
      continue;
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      const kind = Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
      records.problems.push({ line, code: "data-record", reason: `holds ${kind}; each line must be an object such as {"text": "…"}` });
      continue;
    }
    addExample(records, value as Record<string, unknown>, file, line, options);
  }
  return records;
}

function csv(text: string, file: string, options: ReadOptions): Records {
  const [header, ...rows] = csvRows(text, file);
  const columns = header!.cells.map((cell) => cell.trim());
  for (const column of [options.textColumn ?? "text", ...(options.labelColumn === undefined ? [] : [options.labelColumn])]) {
    if (columns.includes(column)) continue;
    const which = column === options.labelColumn ? "labelColumn" : "textColumn";
    throw new EspalierError(
      "data-columns",
      `${file} line ${header!.line}: the header has no column "${printable(column)}"; its columns are ${listed(columns)}. ` +
        `Name the right one with the option ${which} (columns are separated by commas).`,
    );
  }
  const twice = columns.find((column, index) => columns.indexOf(column) !== index);
  if (twice !== undefined) {
    throw new EspalierError(
      "data-columns",
      `${file} line ${header!.line}: the header names the column "${printable(twice)}" twice. Rename one of them.`,
    );
  }
  const records: Records = { examples: [], problems: [] };
  for (const { cells, line } of rows) {
    if (cells.length === columns.length) {
      const row = Object.fromEntries(columns.map((column, index) => [column, cells[index]!]));
      addExample(records, row, file, line, options);
    } else {
      const reason = `has ${cells.length} cells where the header has ${columns.length} columns; put cells that hold commas or line ends in quotes`;
      records.problems.push({ line, code: "data-csv", reason });
    }
  }
  return records;
}

function csvRows(text: string, file: string): { cells: string[]; line: number }[] {
  try {
    // Rows of the wrong length come through, to be counted with the other broken lines.
    const settings = { info: true, skip_empty_lines: true, relax_column_count: true, record_delimiter: "\n" } as const;
    const rows = parse(text, settings) as unknown as { record: string[]; info: { lines: number } }[];
    // The parser tells where a row ends; a row of several lines holds the others in its quoted cells.
    return rows.map(({ record, info }) => ({
      cells: record,
      line: info.lines - record.reduce((n, cell) => n + cell.split("\n").length - 1, 0),
    }));
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const { lines, message } = error as CsvError & { lines?: number };
    throw new EspalierError(
      "data-csv",
      `${file} line ${lines ?? 1}: is not valid CSV: ${printable(message)}. Put cells that hold quotes in quotes, and double the quotes inside.`,
      { cause: error },
    );
  }
}

function addExample(records: Records, value: Record<string, unknown>, file: string, line: number, options: ReadOptions): void {
  const { textColumn = "text", labelColumn = "label" } = options;
  const complain = (code: string, reason: string) => records.problems.push({ line, code, reason });
  const text = Object.hasOwn(value, textColumn) ? value[textColumn] : undefined;
  const label = Object.hasOwn(value, labelColumn) ? value[labelColumn] : undefined;
  if (text === undefined) {
    const keys = Object.keys(value);
    const has = keys.length === 0 ? "it is an empty object" : `it has ${listed(nearestNames(textColumn, keys, 5))}`;
    complain("data-text", `has no "${printable(textColumn)}" (${has}); if the text has another name, give it with the option textColumn`);
  } else if (typeof text !== "string") {
    const kind = Array.isArray(text) ? "a list" : text === null ? "null" : typeof text === "object" ? "an object" : `a ${typeof text}`;
    complain("data-text", `"${printable(textColumn)}" is ${kind}; it must be a string`);
  } else if (text.trim() === "") {
    complain("data-text", `"${printable(textColumn)}" is empty; remove the line or give it a text`);
  } else if (label === undefined || label === null || label === "") {
    records.examples.push({ text, file, line });
  } else if (typeof label === "object") {
    const kind = Array.isArray(label) ? "a list" : "an object";
    complain("data-labels", `"${printable(labelColumn)}" is ${kind}; it must be a string, a number or a boolean`);
  } else {
    records.examples.push({ text, label: String(label), file, line });
  }
}

function refuseProblems(file: string, problems: Problem[]): void {
  const [first, ...others] = problems;
  if (!first) return;
  const numbers = others.slice(0, 5).map((problem) => problem.line);
  const dots = others.length > numbers.length ? ", …" : "";
  const more =
    others.length === 0
      ? "No other line is broken."
      : others.length === 1
        ? `1 other line is broken too (line ${numbers[0]}).`
        : `${others.length} other lines are broken too (lines ${numbers.join(", ")}${dots}).`;
  throw new EspalierError(first.code, `${file} line ${first.line}: ${first.reason}. ${more}`);
}

function refuseHalfLabelled(file: string, examples: Example[], { labelColumn }: ReadOptions): void {
  const labelled = examples.filter((example) => example.label !== undefined);
  if (labelled.length === examples.length) return;
  if (labelled.length === 0) {
    if (labelColumn === undefined) return;
    throw new EspalierError(
      "data-labels",
      `${file}: no line has a label "${printable(labelColumn)}". Name the right one with the option labelColumn, or leave the option out.`,
    );
  }
  const bare = examples.filter((example) => example.label === undefined);
  throw new EspalierError(
    "data-labels",
    `${file} line ${bare[0]!.line}: has no label, but line ${labelled[0]!.line} has one (${bare.length} of ${examples.length} examples have none). ` +
      "Label every line or none.",
  );
}

const listed = (names: readonly string[]) => {
  const shown = names.slice(0, 20).map((name) => `"${printable(name)}"`);
  return shown.join(", ") + (names.length > shown.length ? `, … (${names.length} in all)` : "");
};

/** What a file holds must not steer the terminal that shows the message. */
const printable = (text: string) => (text.length > 200 ? `${text.slice(0, 200)}…` : text).replace(/\p{Cc}/gu, "?");
