import { extname } from "node:path";
import { type CsvError, parse } from "csv-parse/sync";
import { EspalierError, nearestNames } from "../graph/errors.ts";
import { jsonLines, type Problem, printable, refuseProblems } from "./json-lines.ts";
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
 * `{"prompt": "…", "completion": "…"}` is the text that the two make when joined as they are.
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
  const { objects, problems } = jsonLines(text, '{"text": "…"}');
  const records: Records = { examples: [], problems };
  for (const { value, line } of objects) addExample(records, value, file, line, options);
  problems.sort((a, b) => a.line - b.line);
  return records;
}

function csv(text: string, file: string, options: ReadOptions): Records {
  const {
    rows: [header, ...rows],
    problems,
  } = csvRows(text, file);
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
  const records: Records = { examples: [], problems };
  const labelColumn = options.labelColumn ?? "label";
  for (const { cells, line } of rows) {
    if (cells.length === columns.length) {
      // "a, spam" is the label "spam": a class must not fall in two because of a blank after a comma.
      const row = Object.fromEntries(columns.map((column, i) => [column, column === labelColumn ? cells[i]!.trim() : cells[i]!]));
      addExample(records, row, file, line, options);
    } else {
      const reason = `has ${cells.length} cells where the header has ${columns.length} columns; put cells that hold commas or line ends in quotes`;
      records.problems.push({ line, code: "data-csv", reason });
    }
  }
  problems.sort((a, b) => a.line - b.line);
  return records;
}

function csvRows(text: string, file: string): { rows: { cells: string[]; line: number }[]; problems: Problem[] } {
  const faults: { line: number; message: string; code: string }[] = [];
  const settings = {
    info: true,
    skip_empty_lines: true,
    record_delimiter: "\n",
    // Rows of the wrong length come through, and rows with faults are passed over, to be counted with the other broken lines.
    relax_column_count: true,
    skip_records_with_error: true,
    on_skip: ({ lines, code, message }: CsvError & { lines?: number }) => {
      // The parser may stumble over one row several times.
      if (faults.at(-1)?.line !== lines) faults.push({ line: lines ?? 1, message, code });
      return undefined;
    },
  };
  const parsed = parse(text, settings as never) as unknown as { record: string[]; info: { lines: number } }[];
  const unclosed = faults.findIndex((fault) => fault.code === "CSV_QUOTE_NOT_CLOSED");
  // After another fault in quoting, a quote that seems open at the end of the file is only its consequence.
  if (unclosed > 0) faults.splice(unclosed, 1);
  else if (unclosed === 0) {
    // The parser names the end of the file; what has to be found is where the row begins.
    const after = parsed.at(-1)?.info.lines ?? 0;
    faults[0]!.line =
      after +
      1 +
      text
        .split("\n")
        .slice(after)
        .findIndex((line) => line !== "");
    faults[0]!.message = "a quote that opens in this row is never closed";
  }
  const problems = faults.map(({ line, message, code }) => {
    const advice = "put cells that hold quotes in quotes, and double the quotes inside";
    const reason = `is not valid CSV: ${printable(message)}; ${advice}`;
    return { line, code: "data-csv", reason, hidesRest: code === "CSV_QUOTE_NOT_CLOSED" || code === "CSV_INVALID_CLOSING_QUOTE" };
  });
  // The parser tells where a row ends; a row of several lines holds the others in its quoted cells.
  const rows = parsed.map(({ record, info }) => ({
    cells: record,
    line: info.lines - record.reduce((n, cell) => n + cell.split("\n").length - 1, 0),
  }));
  // Without its header a file has no columns to speak of.
  if (problems[0] && problems[0].line <= (rows[0]?.line ?? problems[0].line)) refuseProblems(file, problems);
  return { rows, problems };
}

function addExample(records: Records, value: Record<string, unknown>, file: string, line: number, options: ReadOptions): void {
  const { textColumn = "text", labelColumn = "label" } = options;
  const complain = (code: string, reason: string) => records.problems.push({ line, code, reason });
  const at = (key: string) => (Object.hasOwn(value, key) ? value[key] : undefined);
  const [prompt, completion] = [at("prompt"), at("completion")];
  const isPair = options.textColumn === undefined && typeof prompt === "string" && typeof completion === "string";
  const text = at(textColumn) === undefined && isPair ? prompt + completion : at(textColumn);
  const label = at(labelColumn);
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
