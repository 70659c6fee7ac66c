import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { chatPrompt, type GenerateOptions, generate } from "../generate/index.ts";
import { EspalierError, nearestNames } from "../graph/index.ts";
import type { ChatMessage } from "../inputs/index.ts";
import type { ChatModel, ChatModels } from "./chat-models.ts";
import { formatCount } from "./terminal.ts";

/** Where a chat goes: the answers, piece by piece, and what is said about them. */
export interface ChatOutput {
  answer(piece: string): void;
  notice(text: string): void;
}

interface ChatCommand {
  usage: string;
  does: string;
  run(session: ChatSession, argument: string): Promise<void> | void;
}

const commands: Readonly<Record<string, ChatCommand>> = {
  "/adapter": {
    usage: "/adapter <name>",
    does: "answer with this adapter; none for the base model, without a name a list",
    run: (session, name) => session.useAdapter(name),
  },
  "/system": {
    usage: "/system <text>",
    does: "what the system says before all else; none takes it away, without a text it is shown",
    run: (session, text) => session.setSystem(text),
  },
  "/reset": { usage: "/reset", does: "forget the conversation, but not what the system says", run: (session) => session.reset() },
  "/retry": { usage: "/retry", does: "answer the last message again", run: (session) => session.retry() },
  "/save": {
    usage: "/save <file>",
    does: "add the conversation to a .jsonl file that espalier train reads",
    run: (session, file) => session.save(file),
  },
  "/help": { usage: "/help", does: "this list", run: (session) => session.help() },
  "/exit": { usage: "/exit", does: "end the chat; so does Ctrl-D", run: () => {} },
};

/** One conversation: its history, and what each line of input does to it. A line that fails changes nothing. */
export class ChatSession {
  readonly #models: ChatModels;
  readonly #options: GenerateOptions & { maxNewTokens: number };
  readonly #output: ChatOutput;
  #model: ChatModel;
  #system: string | undefined;
  #turns: ChatMessage[] = [];
  #answers = 0;
  #answering: { stopped: boolean } | undefined;

  constructor(
    models: ChatModels,
    first: ChatModel,
    options: GenerateOptions & { maxNewTokens: number; system?: string },
    output: ChatOutput,
  ) {
    const { system, ...rest } = options;
    this.#models = models;
    this.#model = first;
    this.#system = system;
    this.#options = rest;
    this.#output = output;
  }

  get adapter(): string | undefined {
    return this.#model.adapter;
  }

  /** The whole conversation, with what the system says. */
  get messages(): ChatMessage[] {
    return this.#system === undefined ? [...this.#turns] : [{ role: "system", content: this.#system }, ...this.#turns];
  }

  /** Takes a line: a command, or a message, which is answered. A message that begins with / is written with //. */
  async take(line: string): Promise<"on" | "exit"> {
    const text = line.trim();
    if (text === "") return "on";
    if (!text.startsWith("/") || text.startsWith("//")) {
      await this.#answer(text.startsWith("//") ? text.slice(1) : text, this.#turns);
      return "on";
    }
    const [, name, argument] = /^(\S+)\s*(.*)$/s.exec(text)!;
    const command = Object.hasOwn(commands, name!) ? commands[name!] : undefined;
    if (!command) {
      const [nearest] = nearestNames(name!, Object.keys(commands), 1);
      throw new EspalierError("unknown-command", `There is no command ${name}; ${nearest} is the nearest, and /help lists all.`);
    }
    await command.run(this, argument!);
    return name === "/exit" ? "exit" : "on";
  }

  /** Ends the answer that is being given; false where there is none. */
  stop(): boolean {
    if (!this.#answering) return false;
    this.#answering.stopped = true;
    return true;
  }

  async useAdapter(name: string): Promise<void> {
    if (name !== "") this.#model = await this.#models.open(name === "none" ? undefined : name);
    const all = ["none", ...this.#models.names].map((each) => (each === (this.adapter ?? "none") ? `[${each}]` : each));
    this.#output.notice(name === "" ? `Adapters: ${all.join("  ")}` : `Adapter: ${name}.`);
  }

  setSystem(text: string): void {
    if (text === "none") this.#system = undefined;
    else if (text !== "") this.#system = text;
    this.#output.notice(this.#system === undefined ? "The system says nothing." : `System: ${this.#system}`);
  }

  reset(): void {
    this.#turns = [];
    this.#output.notice("The conversation is forgotten.");
  }

  async retry(): Promise<void> {
    const last = this.#turns.findLastIndex(({ role }) => role === "user");
    if (last < 0) throw new EspalierError("nothing-to-retry", "There is no message to answer again.");
    await this.#answer(this.#turns[last]!.content as string, this.#turns.slice(0, last));
  }

  save(file: string): void {
    if (file === "") throw new EspalierError("bad-option", "Say where: /save conversations.jsonl");
    if (this.#turns.length === 0) throw new EspalierError("nothing-to-save", "There is no conversation to save yet.");
    try {
      const open = existsSync(file) && !/(^|\n)$/.test(readFileSync(file, "utf8")) ? "\n" : "";
      appendFileSync(file, `${open}${JSON.stringify({ messages: this.messages })}\n`);
    } catch (cause) {
      throw new EspalierError(
        "not-writable",
        `${file} cannot be written to (${(cause as NodeJS.ErrnoException).code}). Give another file.`,
        {
          cause,
        },
      );
    }
    this.#output.notice(`Added a conversation of ${this.messages.length} messages to ${file}.`);
  }

  help(): void {
    const width = Math.max(...Object.values(commands).map(({ usage }) => usage.length));
    for (const { usage, does } of Object.values(commands)) this.#output.notice(`${usage.padEnd(width)}  ${does}`);
    this.#output.notice(`${"Ctrl-C".padEnd(width)}  stop the answer`);
  }

  async #answer(question: string, before: readonly ChatMessage[]): Promise<void> {
    const { decoder, tokenizer, template, end } = this.#model;
    const system: ChatMessage[] = this.#system === undefined ? [] : [{ role: "system", content: this.#system }];
    const asked: ChatMessage[] = [...before, { role: "user", content: question }];
    const { maxNewTokens, stop = [], seed = 0 } = this.#options;
    const prompt = chatPrompt(tokenizer, template, [...system, ...asked], { context: decoder.context, maxNewTokens });
    if (prompt.dropped > 0)
      this.#output.notice(`The conversation is longer than the context: its oldest ${prompt.dropped} messages were dropped.`);
    const generation = generate(decoder, tokenizer, prompt.ids, {
      ...this.#options,
      stop: [...stop, ...(end.text === undefined ? [] : [end.text])],
      endIds: end.id === undefined ? [] : [end.id],
      seed: seed + this.#answers++, // so that /retry draws anew
    });
    const answering = { stopped: false };
    this.#answering = answering;
    let answer = "";
    try {
      for await (const piece of generation) {
        answer += piece;
        this.#output.answer(piece);
        if (answering.stopped) break;
      }
    } finally {
      this.#answering = undefined;
      this.#output.answer("\n");
    }
    const { finishReason } = await generation.result();
    if (answering.stopped) this.#output.notice("Stopped.");
    else if (finishReason === "length") this.#output.notice(`Cut at ${formatCount(maxNewTokens)} tokens (--max-new-tokens).`);
    else if (finishReason === "context") this.#output.notice("Cut where the context is full.");
    const content = answer.trim();
    const kept = prompt.messages.slice(system.length);
    if (content !== "") this.#turns = [...kept, { role: "assistant", content }];
    else this.#output.notice("The answer is empty; neither it nor the message is kept.");
  }
}
