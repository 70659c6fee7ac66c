/**
 * A checkpoint's chat template: a conversation as the one text that the model was trained to read. The variables and helpers are those of
 * transformers' `apply_chat_template`. Nothing here imports from Node; reading directories is in `chat-template-directory.ts`.
 */
import { EspalierError } from "../../graph/errors.ts";
import type { TextRange } from "./added-tokens.ts";
import { type ChatFormat, chatFormatNames, chatFormats } from "./chat-formats.ts";
import { type ChatMessage, templateMessages } from "./chat-messages.ts";
import { JinjaTemplate, TemplateRefusal } from "./jinja.ts";

export interface RenderOptions {
  /** Ends with what the assistant's next turn begins with. Default `false`. */
  addGenerationPrompt?: boolean;
  /** JSON schemas of functions that the model may call. */
  tools?: readonly object[] | undefined;
  documents?: readonly object[] | undefined;
  /** Further variables that the template knows, such as `enable_thinking`. */
  variables?: Readonly<Record<string, unknown>>;
  /** What `strftime_now` takes for now. */
  now?: Date;
  /** Which of several templates: default "tool_use" when there are tools and it exists, else "default". */
  name?: string | undefined;
}

/** A rendered conversation and what lies where in it. */
export interface RenderedChat {
  text: string;
  /** What `{% generation %}` blocks wrote. */
  generation: TextRange[];
  /** Occurrences of the `literal` strings that come from the messages and not from the template. */
  literal: TextRange[];
}

export interface ChatTemplateOptions {
  /** Names of special tokens and their text: `bos_token`, `eos_token`, … */
  specialTokens?: Readonly<Record<string, string>>;
  /** Names the source in errors. */
  where?: string;
  /** Seconds that a template may run. Default 10; an honest one takes milliseconds. */
  timeLimit?: number;
}

export class ChatTemplate {
  readonly where: string;
  readonly specialTokens: Readonly<Record<string, string>>;
  /** The built-in format, when it is one. */
  readonly format: ChatFormat | undefined;
  /** Equal for templates that write the same. Undefined for one that reads the clock. */
  readonly fingerprint: string | undefined;
  readonly #templates: ReadonlyMap<string, { source: string; jinja: JinjaTemplate }>;
  readonly #timeLimit: number;

  /**
   * @param source Jinja source, or several by name, of which one is called "default"
   * @throws EspalierError `chat-template-broken` when a source is not Jinja
   */
  constructor(source: string | Readonly<Record<string, string>>, options: ChatTemplateOptions & { format?: ChatFormat } = {}) {
    const { specialTokens = {}, where = "chat template", timeLimit = 10, format } = options;
    this.where = where;
    this.format = format;
    this.specialTokens = specialTokens;
    this.#timeLimit = timeLimit;
    const sources = typeof source === "string" ? { default: source } : source;
    this.fingerprint = Object.values(sources).some((text) => text.includes("strftime_now"))
      ? undefined
      : JSON.stringify([Object.entries(sources), Object.entries(specialTokens)]);
    this.#templates = new Map(
      Object.entries(sources).map(([name, text]) => [name, { source: text, jinja: compile(text, this.#named(name, sources)) }]),
    );
    if (this.#templates.size === 0)
      throw new EspalierError("chat-template-broken", `${where} holds no template. Copy the file from the original checkpoint again.`);
  }

  /** A built-in format, for a model without a template. */
  static builtIn(format: string, options: ChatTemplateOptions = {}): ChatTemplate {
    if (!Object.hasOwn(chatFormats, format))
      throw new EspalierError(
        "bad-option",
        `There is no chat format ${JSON.stringify(format)}; the built-in ones are ${chatFormatNames.join(", ")}.`,
      );
    const name = format as ChatFormat;
    return new ChatTemplate(chatFormats[name], { where: `the chat format ${name}`, ...options, format: name });
  }

  /** Whether the template itself says what the assistant wrote (`{% generation %}`). */
  hasGeneration(options: RenderOptions = {}): boolean {
    return this.#choose(options).jinja.hasGeneration;
  }

  /**
   * The conversation as text.
   * @throws EspalierError `bad-messages`; `chat-template-refused` with what the template says by `raise_exception`; `chat-template-failed`
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.renderParts(messages, options).text;
  }

  /** As {@link render}, and where the assistant's words and those of the messages that look like `literal` strings stand. */
  renderParts(messages: readonly ChatMessage[], options: RenderOptions = {}, literal: readonly string[] = []): RenderedChat {
    const { addGenerationPrompt = false, tools, documents, variables = {}, now = new Date() } = options;
    const { source, jinja } = this.#choose(options);
    const given = {
      messages: templateMessages(messages, source, this.where),
      tools: tools ?? null,
      documents: documents ?? null,
      ...variables,
    };
    const marks = marksOutside(source + JSON.stringify([given, this.specialTokens]));
    const marked = mark(given, literal, marks) as Record<string, unknown>;
    try {
      const rendered = jinja.render({
        variables: { ...this.specialTokens, ...marked, add_generation_prompt: addGenerationPrompt },
        generation: [marks[0], marks[1]],
        now,
        timeLimit: this.#timeLimit,
      });
      return withoutMarks(rendered, marks);
    } catch (cause) {
      throw this.#failure(cause);
    }
  }

  #choose({ name, tools }: RenderOptions): { source: string; jinja: JinjaTemplate } {
    const names = [...this.#templates.keys()];
    const wanted = name ?? (tools && this.#templates.has("tool_use") ? "tool_use" : names.length === 1 ? names[0]! : "default");
    const found = this.#templates.get(wanted);
    if (found) return found;
    throw new EspalierError(
      "chat-template-missing",
      `${this.where} has no template called ${JSON.stringify(wanted)}; it has ${names.join(", ")}. Name one of these.`,
    );
  }

  #named(name: string, sources: object): string {
    return Object.keys(sources).length === 1 ? this.where : `${this.where} (template "${name}")`;
  }

  #failure(cause: unknown): EspalierError {
    if (cause instanceof TemplateRefusal)
      return new EspalierError("chat-template-refused", `${this.where} refuses this conversation: ${printable(cause.message)}`, { cause });
    const reason = cause instanceof RangeError ? "it calls itself without an end, or makes a text too large" : (cause as Error).message;
    return new EspalierError(
      "chat-template-failed",
      `${this.where} cannot be applied to this conversation: ${printable(reason) || "it ends in a place where it must not"}. Compare the messages with what the model's documentation shows, or use another template.`,
      { cause },
    );
  }
}

function compile(source: string, where: string): JinjaTemplate {
  try {
    return new JinjaTemplate(source);
  } catch (cause) {
    // Where a block is never closed, the parser falls off the end of its tokens.
    const reason = cause instanceof TypeError ? "a block or an expression is not closed" : (cause as Error).message;
    throw new EspalierError(
      "chat-template-broken",
      `${where} is not a usable Jinja template: ${printable(reason)}. Copy the file from the original checkpoint again.`,
      { cause },
    );
  }
}

/** Four characters: begin and end of what is generated, begin and end of what is literal. */
type Marks = readonly [string, string, string, string];

/** Private-use characters that occur neither in the template nor in what it is given. */
function marksOutside(text: string): Marks {
  const used = new Set(text);
  const free: string[] = [];
  for (let code = 0xe000; code <= 0xf8ff && free.length < 4; code++) {
    const char = String.fromCharCode(code);
    if (!used.has(char)) free.push(char);
  }
  if (free.length < 4)
    throw new EspalierError("bad-messages", "The messages hold nearly every private-use character of Unicode; take some of them out.");
  return free as unknown as Marks;
}

/** Puts marks around the literal strings in every text of a value. */
function mark(value: unknown, literal: readonly string[], [, , begin, end]: Marks): unknown {
  if (literal.length === 0) return value;
  const longestFirst = [...literal].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(longestFirst.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "g");
  const walk = (part: unknown): unknown => {
    if (typeof part === "string") return part.replace(pattern, (found) => begin + found + end);
    if (Array.isArray(part)) return part.map(walk);
    if (typeof part !== "object" || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([key, inner]) => [key, walk(inner)]));
  };
  return walk(value);
}

/**
 * Takes the marks out again. Where the template cut one off from its partner, nothing that reaches across the place may become a token: the
 * pieces of a token that were taken apart must not make one when they are put together again.
 */
function withoutMarks(rendered: string, marks: Marks): RenderedChat {
  const generation: TextRange[] = [];
  const literal: TextRange[] = [];
  // `tojson(ensure_ascii=true)` writes a mark as an escape.
  const escaped = marks.map((char) => `\\u${char.charCodeAt(0).toString(16)}`);
  const pattern = new RegExp([...marks, ...escaped.map((text) => `\\${text}`)].join("|"), "g");
  const open: (number | undefined)[] = [undefined, undefined];
  let text = "";
  let from = 0;
  for (const match of rendered.matchAll(pattern)) {
    text += rendered.slice(from, match.index);
    from = match.index + match[0].length;
    const kind = Math.max(marks.indexOf(match[0]), escaped.indexOf(match[0]));
    const [which, isEnd] = [kind >> 1, kind % 2 === 1];
    const begin = open[which];
    if (isEnd && begin !== undefined) {
      if (begin < text.length) (which === 0 ? generation : literal).push([begin, text.length]);
    } else if (which === 1 && (isEnd || begin !== undefined)) literal.push([begin ?? text.length, begin ?? text.length]);
    open[which] = isEnd ? undefined : text.length;
  }
  if (open[1] !== undefined) literal.push([open[1], open[1]]);
  return { text: text + rendered.slice(from), generation, literal };
}

/** What a file says must not steer the terminal that shows the message. */
const printable = (text: string): string => (text.length > 500 ? `${text.slice(0, 500)}…` : text).replace(/\p{Cc}+/gu, " ");
