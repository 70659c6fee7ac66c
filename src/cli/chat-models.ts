import { Decoder } from "../generate/index.ts";
import { EspalierError } from "../graph/index.ts";
import { type ChatTemplate, type Tokenizer, type TurnEnd, turnEnd } from "../inputs/index.ts";
import type { Device } from "../runtime/index.ts";
import { openLanguageModel } from "./adapted.ts";
import { chatTemplateOf } from "./chat-format.ts";

/** What answers in a chat. */
export interface ChatModel {
  /** Name of its adapter; undefined for the base model by itself. */
  adapter: string | undefined;
  decoder: Decoder;
  tokenizer: Tokenizer;
  template: ChatTemplate;
  end: TurnEnd;
}

export interface ChatModelOptions {
  model?: string;
  /** By name. */
  adapters: ReadonlyMap<string, string>;
  chatFormat?: string;
}

/**
 * One base model by itself and with each of its adapters, opened when it is first used. Each is a model of its own; the base weights are mapped
 * from their file and shared.
 */
export class ChatModels {
  readonly #device: Device;
  readonly #options: ChatModelOptions;
  readonly #opened = new Map<string | undefined, ChatModel>();
  #base: string | undefined;
  #format: string | undefined;

  constructor(device: Device, options: ChatModelOptions) {
    this.#device = device;
    this.#options = options;
    this.#base = options.model;
    this.#format = options.chatFormat;
  }

  /** Of the adapters. */
  get names(): string[] {
    return [...this.#options.adapters.keys()];
  }

  /** The directory of the base model, once something has been opened. */
  get base(): string | undefined {
    return this.#base;
  }

  /** The model with this adapter; undefined for none. */
  async open(adapter: string | undefined): Promise<ChatModel> {
    const known = this.#opened.get(adapter);
    if (known) return known;
    const path = adapter === undefined ? undefined : this.#options.adapters.get(adapter);
    if (adapter !== undefined && path === undefined)
      throw new EspalierError(
        "unknown-adapter",
        `There is no adapter ${JSON.stringify(adapter)}; ${this.names.length > 0 ? `those given are ${this.names.join(", ")}` : "none was given with --adapter name=directory"}.`,
      );
    const { model, tokenizer, base, record } = await openLanguageModel(this.#base, path);
    const template = chatTemplateOf(base, this.#format, record);
    const opened = { adapter, decoder: await Decoder.create(this.#device, model), tokenizer, template, end: turnEnd(tokenizer, template) };
    // All stand on the first one's base; and where that was trained in a built-in format, the base is spoken to in it.
    this.#base ??= base;
    this.#format ??= template.format;
    this.#opened.set(adapter, opened);
    return opened;
  }

  async dispose(): Promise<void> {
    for (const { decoder } of this.#opened.values()) await decoder.dispose();
  }
}
