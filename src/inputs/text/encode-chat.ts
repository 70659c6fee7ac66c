/** Conversations as token ids, and which of them the assistant said. */
import { EspalierError } from "../../graph/errors.ts";
import type { TextRange } from "./added-tokens.ts";
import { type ChatMessage, messageText } from "./chat-messages.ts";
import type { ChatTemplate, RenderedChat, RenderOptions } from "./chat-template.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface EncodeChatOptions extends RenderOptions {
  /**
   * What becomes of special tokens that a message spells out, such as `<|im_end|>` in what a user wrote: "text" (the default) encodes them as
   * any other text, so that nobody can end a turn or begin another role's from within a message. "parse" takes them for tokens, which is
   * what transformers' `apply_chat_template` does unless it is called with `sanitize_control_tokens`.
   */
  specialTokensInMessages?: "text" | "parse";
}

/**
 * The ids of a conversation. The template writes all special tokens; the tokenizer adds none, so no start token comes twice.
 * @throws EspalierError as {@link ChatTemplate.render} does
 */
export function encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: EncodeChatOptions = {},
): number[] {
  const { text, literal } = render(tokenizer, template, messages, options);
  return tokenizer.encode(text, { addSpecialTokens: false, literal });
}

export interface EncodedConversation {
  ids: number[];
  /** For every id, whether it is part of an assistant's turn: its words and the token that ends it, not the header before. */
  assistant: boolean[];
}

/**
 * The ids of a conversation, and which are to be learnt. Where the template has `{% generation %}` blocks, they say it. Elsewhere turn k is what
 * the conversation up to it adds to the conversation before it with the generation prompt; blanks after the end of the turn are not part of it.
 * @throws EspalierError `chat-template-prefix` where a turn cannot be found so: the template writes earlier turns otherwise than last ones
 */
export function encodeConversation(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  given: Omit<EncodeChatOptions, "addGenerationPrompt"> = {},
): EncodedConversation {
  // One moment for every rendering, for templates that write the time.
  const options = { now: new Date(), ...given };
  const whole = render(tokenizer, template, messages, options);
  const spans = template.hasGeneration(options) ? whole.generation : assistantSpans(template, messages, options, whole.text);
  const encode = (begin: number, end: number) =>
    tokenizer.encode(whole.text.slice(begin, end), { addSpecialTokens: false, literal: within(whole.literal, begin, end) });
  const ids = encode(0, whole.text.length);
  const assistant = new Array<boolean>(ids.length).fill(false);
  for (const [begin, end] of spans) {
    const first = commonPrefix(ids, encode(0, begin));
    const head = encode(0, end);
    const reached = commonPrefix(ids, head);
    // Where the end of the turn falls within a token, that token belongs to it, as in transformers.
    const last = reached === head.length ? reached : Math.max(reached, ids.length - commonSuffix(ids, encode(end, whole.text.length)));
    assistant.fill(true, first, last);
  }
  return { ids, assistant };
}

/** How the assistant's turns end: a token that ends the answer, or a text where the tokenizer has no such token. Neither where nothing does. */
export interface TurnEnd {
  id?: number;
  text?: string;
}

/** What the template writes behind an assistant's words, seen from an example. */
export function turnEnd(tokenizer: Tokenizer, template: ChatTemplate, options: RenderOptions = {}): TurnEnd {
  const answer = "espalier";
  let text: string;
  try {
    text = template.render(
      [
        { role: "user", content: "wall" },
        { role: "assistant", content: answer },
      ],
      options,
    );
  } catch {
    return {}; // Then it is the model's own end token that ends an answer.
  }
  const at = text.lastIndexOf(answer);
  const end = at < 0 ? "" : text.slice(at + answer.length).trim();
  if (end === "") return {};
  // What follows may be more than one token, such as an end of turn and an end of text: the first ends it.
  const [first] = tokenizer.encode(end, { addSpecialTokens: false });
  return first !== undefined && tokenizer.isAdded(first) ? { id: first } : { text: end };
}

function render(tokenizer: Tokenizer, template: ChatTemplate, messages: readonly ChatMessage[], options: EncodeChatOptions): RenderedChat {
  const { specialTokensInMessages = "text", ...rest } = options;
  return template.renderParts(messages, rest, specialTokensInMessages === "text" ? tokenizer.specialTokens : []);
}

/** Where the assistant's turns stand in the whole text, by rendering what comes before and up to each. */
function assistantSpans(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: Omit<EncodeChatOptions, "addGenerationPrompt">,
  whole: string,
): TextRange[] {
  const closing = closingText(template, messages, options);
  return messages.flatMap((message, k): TextRange[] => {
    if (message.role !== "assistant") return [];
    const before = k === 0 ? "" : prefix(template, messages.slice(0, k), { ...options, addGenerationPrompt: true }, "", whole, k);
    const through = prefix(template, messages.slice(0, k + 1), options, closing, whole, k);
    if (through.length <= before.length) throw notFound(template, k, "the turn adds nothing to the prompt before it");
    const turn = through.slice(before.length);
    const trimmed = turn.trimEnd();
    // A line's end after the token that ends the turn is never generated; where nothing else ends the turn, it is what does.
    const ended = !trimmed.endsWith(messageText(message).trim());
    return [[before.length, before.length + (ended ? trimmed : turn).length]];
  });
}

/** The end token that some templates (Phi-3's) put behind a conversation as a whole when no answer is asked for; no turn's own. */
function closingText(template: ChatTemplate, messages: readonly ChatMessage[], options: RenderOptions): string {
  const eos = template.specialTokens.eos_token;
  const k = messages.findIndex(({ role }, i) => i > 0 && role === "assistant");
  if (!eos || k < 0) return "";
  try {
    const ended = template.render(messages.slice(0, k), options);
    const open = template.render(messages.slice(0, k), { ...options, addGenerationPrompt: true });
    return ended.endsWith(eos) && !open.startsWith(ended) && open.startsWith(ended.slice(0, -eos.length)) ? eos : "";
  } catch {
    return ""; // Whether that matters shows where the turns are looked for.
  }
}

function prefix(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: RenderOptions,
  closing: string,
  whole: string,
  turn: number,
): string {
  let text: string;
  try {
    text = template.render(messages, options);
    if (closing !== "" && text.endsWith(closing)) text = text.slice(0, -closing.length);
  } catch (cause) {
    throw notFound(template, turn, `the first ${messages.length} messages alone fail: ${(cause as Error).message}`, cause);
  }
  if (whole.startsWith(text)) return text;
  const at = commonPrefix([...text], [...whole]);
  const show = (from: string) => JSON.stringify([...from].slice(Math.max(0, at - 20), at + 20).join(""));
  throw notFound(template, turn, `the first ${messages.length} messages alone become ${show(text)} where the whole has ${show(whole)}`);
}

function notFound(template: ChatTemplate, turn: number, reason: string, cause?: unknown): EspalierError {
  return new EspalierError(
    "chat-template-prefix",
    `${template.where}: the assistant's turn (message ${turn + 1}) cannot be found in the whole conversation: ${reason}. Mark what the assistant says in the template with {% generation %}…{% endgeneration %}, or use another template.`,
    { cause },
  );
}

/** The ranges of a part of a text, seen from its beginning. */
const within = (ranges: readonly TextRange[], begin: number, end: number): TextRange[] =>
  ranges
    .filter((range) => range[0] < end && range[1] > begin)
    .map((range) => [Math.max(range[0], begin) - begin, Math.min(range[1], end) - begin]);

function commonPrefix<T>(a: readonly T[], b: readonly T[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

function commonSuffix(a: readonly number[], b: readonly number[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[a.length - 1 - n] === b[b.length - 1 - n]) n++;
  return n;
}
