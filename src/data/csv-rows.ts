import { type CsvError, parse } from "csv-parse/sync";
import { type Problem, printable, refuseProblems } from "./json-lines.ts";

/** The rows of a CSV text, blank ones left out, and what is wrong with the others; the first row of a file is its header. `line` is a row's first, counted from `firstLine`. */
export function csvRows(text: string, file: string, firstLine = 1): { rows: { cells: string[]; line: number }[]; problems: Problem[] } {
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
    return {
      line: line + firstLine - 1,
      code: "data-csv",
      reason,
      hidesRest: code === "CSV_QUOTE_NOT_CLOSED" || code === "CSV_INVALID_CLOSING_QUOTE",
    };
  });
  // The parser tells where a row ends; a row of several lines holds the others in its quoted cells.
  const rows = parsed.map(({ record, info }) => ({
    cells: record,
    line: info.lines - record.reduce((n, cell) => n + cell.split("\n").length - 1, 0) + firstLine - 1,
  }));
  // Without its header a file has no columns to speak of.
  if (problems[0] && problems[0].line <= (rows[0]?.line ?? problems[0].line)) refuseProblems(file, problems);
  return { rows, problems };
}
