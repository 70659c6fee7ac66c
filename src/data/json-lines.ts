import { EspalierError } from "../graph/errors.ts";
import { parseJson } from "../graph/parse-json.ts";

/** What is wrong with one line. All lines are read before the first is reported, so that the message can say how many there are. */
export interface Problem {
  line: number;
  code: string;
  reason: string;
  /** The lines after it could not be told apart, so nobody knows how many of them are broken. */
  hidesRest?: boolean;
}

/** The objects of a text that holds one JSON object a line; blank lines are skipped. `like` is what a line looks like, for messages. */
export function jsonLines(
  text: string,
  like: string,
  firstLine = 1,
): { objects: { value: Record<string, unknown>; line: number }[]; problems: Problem[] } {
  const objects: { value: Record<string, unknown>; line: number }[] = [];
  const problems: Problem[] = [];
  for (const [index, content] of text.split("\n").entries()) {
    if (content.trim() === "") continue;
    const line = index + firstLine;
    let value: unknown;
    try {
      value = parseJson(content);
    } catch (error) {
      problems.push({ line, code: "data-json", reason: `is not valid JSON: ${printable((error as Error).message)}` });
      continue;
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      const kind = Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
      problems.push({ line, code: "data-record", reason: `holds ${kind}; each line must be an object such as ${like}` });
      continue;
    }
    objects.push({ value: value as Record<string, unknown>, line });
  }
  return { objects, problems };
}

/** Throws the first problem, and counts the others. */
export function refuseProblems(file: string, problems: readonly Problem[]): void {
  const [first, ...others] = problems;
  if (!first) return;
  const unit = unitOf(file);
  const numbers = others.slice(0, 5).map((problem) => problem.line);
  const hiding = problems.find((problem) => problem.hidesRest);
  const dots = others.length > numbers.length ? ", …" : "";
  const more =
    others.length === 0
      ? hiding
        ? ""
        : ` No other ${unit} is broken.`
      : others.length === 1
        ? ` 1 other ${unit} is broken too (${unit} ${numbers[0]}).`
        : ` ${others.length} other ${unit}s are broken too (${unit}s ${numbers.join(", ")}${dots}).`;
  const rest = hiding ? ` What follows line ${hiding.line} cannot be judged before that line is corrected.` : "";
  throw new EspalierError(first.code, `${file} ${unit} ${first.line}: ${first.reason}.${more}${rest}`);
}

/** What the places of a file are called. */
export const unitOf = (file: string): string => (file.toLowerCase().endsWith(".parquet") ? "row" : "line");

/** What a file holds must not steer the terminal that shows the message. */
export const printable = (text: string): string => (text.length > 200 ? `${text.slice(0, 200)}…` : text).replace(/\p{Cc}/gu, "?");
