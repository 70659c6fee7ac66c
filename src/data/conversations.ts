import { EspalierError } from "../graph/errors.ts";
import { type ChatMessage, type ChatRole, chatMessageSchema, messageText } from "../inputs/index.ts";
import { dataFiles, dataFormat } from "./data-files.ts";
import type { Example } from "./examples.ts";
import { firstRecord } from "./first-record.ts";
import { type Problem, printable, refuseProblems } from "./json-lines.ts";
import { fileRows, type Rows } from "./rows.ts";

/** A conversation of a data file. Its `text`, by which conversations are compared, is what everybody says but the system, which says the same in many. */
export interface Conversation extends Example {
  messages: ChatMessage[];
  /** Functions that the model could call. */
  tools?: object[];
}

/** The speakers of the ShareGPT format and its descendants. */
const speakers: Readonly<Record<string, ChatRole>> = {
  system: "system",
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  assistant: "assistant",
  model: "assistant",
  tool: "tool",
  observation: "tool",
};

export const conversationLike = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}';

export const conversationColumns = ["messages", "conversations", "system", "tools"];

/** Whether the first record of a .jsonl or .parquet file (or of the first of several, see {@link dataFiles}) is a conversation. */
export function holdsConversations(path: string): boolean {
  const [file] = dataFiles(path) as [string];
  const format = dataFormat(file);
  if (format === ".csv" || format === ".txt") return false;
  const value = firstRecord(path, conversationColumns);
  return value !== undefined && listOf(value) !== undefined;
}

/**
 * Reads conversations, one JSON object a line: `{"messages": [{"role": "user", "content": "…"}, …]}` with the roles system, user, assistant and
 * tool, and perhaps `"tools": [schema, …]`; or, in ShareGPT's way, `{"conversations": [{"from": "human", "value": "…"}, …]}`, perhaps with
 * `"system": "…"`. The assistant must speak at least once. Parquet files have columns of those names; directories and patterns are read as
 * {@link readExamples} does.
 * @throws EspalierError `data-conversation` and what reading records throws; the message counts the other broken lines
 */
export function readConversations(path: string): Conversation[] {
  return dataFiles(path).flatMap((file) => {
    refuseOtherFormats(file);
    const rows = fileRows(file, { like: conversationLike, wanted: conversationColumns });
    const { conversations, problems } = conversationsOf(rows, file);
    refuseProblems(
      file,
      [...rows.problems, ...problems].sort((a, b) => a.line - b.line),
    );
    return conversations;
  });
}

export function refuseOtherFormats(file: string): void {
  const format = dataFormat(file);
  if (format === ".csv" || format === ".txt")
    throw new EspalierError(
      "data-extension",
      `${file}: conversations are read from .jsonl and .parquet files, one a line such as ${conversationLike}.`,
    );
}

/** The conversations that rows hold. */
export function conversationsOf({ rows }: Rows, file: string): { conversations: Conversation[]; problems: Problem[] } {
  const problems: Problem[] = [];
  const conversations = rows.flatMap(({ value, line }): Conversation[] => {
    const read = conversationOf(value);
    if (typeof read === "string") {
      problems.push({ line, code: "data-conversation", reason: read });
      return [];
    }
    const spoken = read.messages.filter(({ role }) => role !== "system");
    const transcript = spoken.map((message) => `${message.role}: ${messageText(message)}`).join("\n");
    return [{ ...read, text: transcript, file, line }];
  });
  return { conversations, problems };
}

const listOf = (value: Record<string, unknown>): unknown[] | undefined =>
  [value.messages, value.conversations].find((list): list is unknown[] => Array.isArray(list));

/** The conversation, or what is wrong with it. */
function conversationOf(value: Record<string, unknown>): { messages: ChatMessage[]; tools?: object[] } | string {
  const list = listOf(value);
  if (!list) return `has no list "messages" or "conversations"; each line must be an object such as ${conversationLike}`;
  const { tools, system } = value;
  if (tools !== undefined && tools !== null && !(Array.isArray(tools) && tools.every((tool) => typeof tool === "object" && tool !== null)))
    return '"tools" must be a list of objects';
  const named: unknown[] = typeof system === "string" && system !== "" ? [{ role: "system", content: system }] : [];
  const messages: ChatMessage[] = [];
  for (const [i, raw] of [...named, ...list].entries()) {
    const where = `message ${i + 1 - named.length}`;
    const message = typeof raw === "object" && raw !== null && "from" in raw ? fromShareGpt(raw as Record<string, unknown>) : raw;
    if (typeof message === "string") return `${where}: ${message}`;
    const parsed = chatMessageSchema.safeParse(message);
    if (!parsed.success) {
      const [issue] = parsed.error.issues;
      return `${where}${issue!.path.length > 0 ? `, ${issue!.path.join(".")}` : ""}: ${printable(issue!.message)}`;
    }
    const checked = parsed.data as ChatMessage;
    const silent = messageText(checked).trim() === "" && !Array.isArray(checked.content) && !checked.tool_calls?.length;
    if (silent && (checked.role === "user" || checked.role === "assistant")) return `${where}: its content is empty`;
    messages.push(checked);
  }
  if (!messages.some(({ role }) => role === "assistant")) return "the assistant says nothing in it, so nothing can be learnt from it";
  return { messages, ...(Array.isArray(tools) && tools.length > 0 && { tools: tools as object[] }) };
}

function fromShareGpt({ from, value, ...rest }: Record<string, unknown>): object | string {
  const role = typeof from === "string" && Object.hasOwn(speakers, from) ? speakers[from] : undefined;
  if (role === undefined)
    return `"from" is ${printable(JSON.stringify(from) ?? "missing")}; the speakers are ${Object.keys(speakers).join(", ")}`;
  return { ...rest, role, content: value };
}
