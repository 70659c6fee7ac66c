import { EspalierError, nearestNames } from "../graph/errors.ts";
import { dataFiles, dataFormat } from "./data-files.ts";
import { type Problem, printable, refuseProblems, unitOf } from "./json-lines.ts";
import { fileRows, type Row, type Rows } from "./rows.ts";
import { readTextFile } from "./text-file.ts";

/** One text, with its label where the file gives one, and where it stands. */
export interface Example {
  text: string;
  label?: string;
  /** What is to be made of the text, in tasks where that is no label. */
  target?: unknown;
  file: string;
  /** From 1; of a CSV record that spans lines, the first; of a Parquet file, the row. */
  line: number;
}

export interface ReadOptions {
  /** The key or column that holds the text, "text" unless told. */
  textColumn?: string;
  /** The key or column that holds the label, "label" unless told. A file may lack it, unless it is named here. */
  labelColumn?: string;
}

/**
 * Reads the examples of a data file, by its extension:
 * `.jsonl` holds one JSON object a line, `{"text": "…", "label": "…"}`; a label may also be a number or a boolean, and is read as a string.
 * `{"prompt": "…", "completion": "…"}` is the text that the two make when joined as they are.
 * `.csv` has a header row that names its columns. `.parquet` has columns of those names.
 * `.txt` is one example: the whole text, for language modelling.
 * All but `.parquet` may be compressed (`.jsonl.gz`). A directory of such files, or a pattern (`shards/*.jsonl`), is read as one, in the order of the names.
 *
 * Either every example has a label or none has. Blank lines are skipped; CRLF and a byte-order mark are accepted.
 */
export function readExamples(path: string, options: ReadOptions = {}): Example[] {
  const files = dataFiles(path);
  const examples = files.flatMap((file) => examplesOfFile(file, options));
  if (dataFormat(files[0]!) !== ".txt") refuseHalfLabelled(path, examples, options);
  return examples;
}

function examplesOfFile(file: string, options: ReadOptions): Example[] {
  if (dataFormat(file) === ".txt") {
    const text = readTextFile(file);
    if (text.trim() === "") throw new EspalierError("data-empty", `${file}: is empty. Give a file with at least one example.`);
    return [{ text, file, line: 1 }];
  }
  const rows = fileRows(file, { like: '{"text": "…"}', wanted: exampleColumns(options) });
  const { examples, problems } = examplesOf(rows, file, options);
  refuseProblems(
    file,
    [...rows.problems, ...problems].sort((a, b) => a.line - b.line),
  );
  return examples;
}

/** The columns that examples are made of. */
export const exampleColumns = ({ textColumn = "text", labelColumn = "label" }: ReadOptions): string[] => [
  ...new Set([textColumn, labelColumn, "prompt", "completion"]),
];

/**
 * The examples that rows hold.
 * @param textOption what the option `textColumn` is called where the text is something else
 * @throws EspalierError `data-columns` where a format that names its columns lacks one
 */
export function examplesOf(
  { rows, columns, header }: Rows,
  file: string,
  options: ReadOptions & { textOption?: string },
): { examples: Example[]; problems: Problem[] } {
  if (columns) checkColumns(columns, header, file, options);
  const found: { examples: Example[]; problems: Problem[] } = { examples: [], problems: [] };
  for (const row of rows) {
    const read = exampleOf(row, file, options, header !== undefined);
    if ("text" in read) found.examples.push(read);
    else found.problems.push(read);
  }
  return found;
}

function checkColumns(
  columns: readonly string[],
  header: number | undefined,
  file: string,
  options: ReadOptions & { textOption?: string },
): void {
  const { textColumn, labelColumn, textOption = "textColumn" } = options;
  const where = header === undefined ? `${file}: the file` : `${file} line ${header}: the header`;
  // A pair of columns may stand for the text in Parquet, where its values have types.
  const isPair = header === undefined && textColumn === undefined && columns.includes("prompt") && columns.includes("completion");
  for (const column of [...(isPair ? [] : [textColumn ?? "text"]), ...(labelColumn === undefined ? [] : [labelColumn])]) {
    if (columns.includes(column)) continue;
    const which = column === labelColumn ? "labelColumn" : textOption;
    const commas = header === undefined ? "" : " (columns are separated by commas)";
    throw new EspalierError(
      "data-columns",
      `${where} has no column "${printable(column)}"; its columns are ${listed(columns)}. Name the right one with the option ${which}${commas}.`,
    );
  }
  const twice = columns.find((column, index) => columns.indexOf(column) !== index);
  if (twice !== undefined)
    throw new EspalierError("data-columns", `${where} names the column "${printable(twice)}" twice. Rename one of them.`);
}

/** The example that a row holds, or what is wrong with it. */
function exampleOf(
  { value, line }: Row,
  file: string,
  options: ReadOptions & { textOption?: string },
  trimLabel: boolean,
): Example | Problem {
  const { textColumn = "text", labelColumn = "label", textOption = "textColumn" } = options;
  const complain = (code: string, reason: string): Problem => ({ line, code, reason });
  const at = (key: string) => (Object.hasOwn(value, key) ? value[key] : undefined);
  const [prompt, completion] = [at("prompt"), at("completion")];
  const isPair = options.textColumn === undefined && typeof prompt === "string" && typeof completion === "string";
  const text = at(textColumn) === undefined && isPair ? prompt + completion : at(textColumn);
  const found = at(labelColumn);
  // "a, spam" is the label "spam": a class must not fall in two because of a blank after a comma.
  const label = trimLabel && typeof found === "string" ? found.trim() : found;
  if (text === undefined) {
    const keys = Object.keys(value);
    const has = keys.length === 0 ? "it is an empty object" : `it has ${listed(nearestNames(textColumn, keys, 5))}`;
    return complain(
      "data-text",
      `has no "${printable(textColumn)}" (${has}); if the text has another name, give it with the option ${textOption}`,
    );
  }
  if (typeof text !== "string") return complain("data-text", `"${printable(textColumn)}" is ${kindOf(text)}; it must be a string`);
  if (text.trim() === "") return complain("data-text", `"${printable(textColumn)}" is empty; remove the line or give it a text`);
  if (label === undefined || label === null || label === "") return { text, file, line };
  if (typeof label === "object")
    return complain("data-labels", `"${printable(labelColumn)}" is ${kindOf(label)}; it must be a string, a number or a boolean`);
  return { text, label: String(label), file, line };
}

const kindOf = (value: unknown): string =>
  Array.isArray(value) ? "a list" : value === null ? "null" : typeof value === "object" ? "an object" : `a ${typeof value}`;

function refuseHalfLabelled(path: string, examples: Example[], { labelColumn }: ReadOptions): void {
  const labelled = examples.filter((example) => example.label !== undefined);
  if (labelled.length === examples.length) return;
  if (labelled.length === 0) {
    if (labelColumn === undefined) return;
    throw new EspalierError(
      "data-labels",
      `${path}: no ${unitOf(examples[0]!.file)} has a label "${printable(labelColumn)}". Name the right one with the option labelColumn, or leave the option out.`,
    );
  }
  const bare = examples.filter((example) => example.label === undefined);
  throw new EspalierError(
    "data-labels",
    `${place(bare[0]!)}: has no label, but ${placeBeside(labelled[0]!, bare[0]!)} has one (${bare.length} of ${examples.length} examples have none). ` +
      `Label every ${unitOf(bare[0]!.file)} or none.`,
  );
}

/** Where an example stands, for messages: `mail.csv line 17`, `mail.parquet row 17`. */
const place = ({ file, line }: Example): string => `${file} ${unitOf(file)} ${line}`;
const placeBeside = (one: Example, other: Example): string => (one.file === other.file ? `${unitOf(one.file)} ${one.line}` : place(one));

const listed = (names: readonly string[]) => {
  const shown = names.slice(0, 20).map((name) => `"${printable(name)}"`);
  return shown.join(", ") + (names.length > shown.length ? `, … (${names.length} in all)` : "");
};
