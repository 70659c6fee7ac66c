import { type ChatMessage, chatMessageSchema, messageText } from "../inputs/index.ts";
import { dataFiles } from "./data-files.ts";
import { printable, refuseProblems } from "./json-lines.ts";
import type { Example } from "./records.ts";
import { fileRows } from "./rows.ts";

/** A prompt with two answers, of which the first is the better one. Its `text`, by which examples are compared, is all of it. */
export interface Preference extends Example {
  /** A text, or what was said before; the answers are of the same kind. */
  prompt: string | ChatMessage[];
  chosen: string | ChatMessage[];
  rejected: string | ChatMessage[];
}

const like = '{"prompt": "…", "chosen": "…", "rejected": "…"}';

/** Whether a record looks like a preference. */
export const isPreference = (record: Readonly<Record<string, unknown>>): boolean =>
  Object.hasOwn(record, "chosen") && Object.hasOwn(record, "rejected");

/**
 * Reads preferences from .jsonl or .parquet files (or .csv, for texts): `{"prompt": "…", "chosen": "…", "rejected": "…"}`, where the three are texts, or lists of
 * messages `[{"role": "user", "content": "…"}]`; the answers then end with what the assistant says. Without a prompt the answers are whole conversations,
 * alike up to their last message.
 *
 * @throws EspalierError `data-preference` and what reading records throws; the message counts the other broken lines
 */
export function readPreferences(path: string): Preference[] {
  return dataFiles(path).flatMap((file) => {
    const { rows, problems } = fileRows(file, { like, wanted: ["prompt", "chosen", "rejected"] });
    const read = rows.flatMap(({ value, line }): Preference[] => {
      const found = preferenceOf(value);
      if (typeof found !== "string")
        return [{ ...found, text: [found.prompt, found.chosen, found.rejected].map(transcript).join("\n"), file, line }];
      problems.push({ line, code: "data-preference", reason: found });
      return [];
    });
    refuseProblems(
      file,
      problems.sort((a, b) => a.line - b.line),
    );
    return read;
  });
}

const transcript = (said: string | ChatMessage[]): string => (typeof said === "string" ? said : said.map(messageText).join("\n"));

/** The preference, or what is wrong with it. */
function preferenceOf({ prompt, chosen, rejected }: Record<string, unknown>): Pick<Preference, "prompt" | "chosen" | "rejected"> | string {
  if (typeof prompt === "string" && typeof chosen === "string" && typeof rejected === "string") {
    if (chosen.trim() === "" || rejected.trim() === "") return `"${chosen.trim() === "" ? "chosen" : "rejected"}" is empty`;
    return chosen === rejected ? "the two answers are the same" : { prompt, chosen, rejected };
  }
  const missing = chosen === undefined ? "chosen" : rejected === undefined ? "rejected" : undefined;
  if (missing) return `has no "${missing}"; each record must be one such as ${like}`;
  const messages = { prompt: prompt ?? [], chosen, rejected };
  const read: Record<string, ChatMessage[]> = {};
  for (const [key, list] of Object.entries(messages)) {
    if (!Array.isArray(list)) return `"prompt", "chosen" and "rejected" must all be texts, or all lists of messages; such as ${like}`;
    const parsed = list.map((message) => chatMessageSchema.safeParse(message));
    const wrong = parsed.findIndex(({ success }) => !success);
    if (wrong >= 0) return `"${key}", message ${wrong + 1}: ${printable(parsed[wrong]!.error!.issues[0]!.message)}`;
    read[key] = parsed.map(({ data }) => data as ChatMessage);
  }
  let { prompt: before, chosen: good, rejected: bad } = read as Record<"prompt" | "chosen" | "rejected", ChatMessage[]>;
  if (before.length === 0) {
    [before, good, bad] = [good.slice(0, -1), good.slice(-1), [...bad]];
    const rest = bad.slice(0, -1);
    if (JSON.stringify(rest) !== JSON.stringify(before))
      return "there is no prompt, and the two conversations differ before their last message";
    bad = bad.slice(-1);
  }
  if (before.length === 0) return "nothing stands before the answers; give a prompt";
  for (const [key, list] of [
    ["chosen", good],
    ["rejected", bad],
  ] as const)
    if (list.at(-1)?.role !== "assistant") return `"${key}" must end with what the assistant says`;
  if (JSON.stringify(good) === JSON.stringify(bad)) return "the two answers are the same";
  return { prompt: before, chosen: good, rejected: bad };
}
