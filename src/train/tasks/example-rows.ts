import { dataFiles } from "../../data/data-files.ts";
import { type Problem, printable, refuseProblems } from "../../data/json-lines.ts";
import { fileRows } from "../../data/rows.ts";

/** Where a row stands. */
export interface RowPlace {
  file: string;
  line: number;
}

/**
 * The examples of data files, as `make` makes them of rows: an example, or what is wrong with a row. All rows are looked at before the first problem is
 * reported.
 *
 * @param like what a line looks like, for messages
 * @throws EspalierError `data-record` and what reading data files throws
 */
export function exampleRows<E>(path: string, like: string, make: (value: Record<string, unknown>, place: RowPlace) => E | string): E[] {
  return dataFiles(path).flatMap((file) => {
    const { rows, problems } = fileRows(file, { like });
    const wrong: Problem[] = [...problems];
    const examples = rows.flatMap(({ value, line }): E[] => {
      const made = make(value, { file, line });
      if (typeof made !== "string") return [made];
      wrong.push({ line, code: "data-record", reason: `${made}; a line looks like ${like}` });
      return [];
    });
    refuseProblems(
      file,
      wrong.sort((a, b) => a.line - b.line),
    );
    return examples;
  });
}

/** A value of the row that must be a text, or what is wrong with it. */
export function textOf(value: Record<string, unknown>, column: string, { mayBeEmpty = false } = {}): { text: string } | { wrong: string } {
  const found = Object.hasOwn(value, column) ? value[column] : undefined;
  if (typeof found === "number") return { text: String(found) };
  if (typeof found !== "string") return { wrong: `has no text "${printable(column)}"` };
  return found.trim() === "" && !mayBeEmpty ? { wrong: `"${printable(column)}" is empty` } : { text: found };
}

/** A list that a row holds, or that a cell of a CSV file spells as JSON. */
export function listOf(value: Record<string, unknown>, column: string): unknown[] | undefined {
  const found = Object.hasOwn(value, column) ? value[column] : undefined;
  if (Array.isArray(found)) return found;
  if (typeof found !== "string" || !found.trimStart().startsWith("[")) return undefined;
  try {
    const parsed: unknown = JSON.parse(found);
    return Array.isArray(parsed) ? parsed : undefined;
  } catch {
    return undefined;
  }
}
