import { Decoder } from "../generate/index.ts";
import { EspalierError } from "../graph/index.ts";
import { type ChatTemplate, type Tokenizer, type TurnEnd, turnEnd } from "../inputs/index.ts";
import { AdapterSet } from "../methods/index.ts";
import type { BaseDtype } from "../models/base-dtype.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { Device } from "../runtime/index.ts";
import { baseOf, openLanguageModel, say } from "./adapted.ts";
import { chatTemplateOf } from "./chat-format.ts";
import { modelDirectory } from "./model-directory.ts";
import { readTaskRecord } from "./task-record.ts";

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
  baseDtype?: BaseDtype;
}

interface Base {
  directory: string;
  model: CausalLM;
  tokenizer: Tokenizer;
  adapters: AdapterSet;
}

/**
 * One base model, by itself or with one of its adapters. Each is read when it is first used; adapters that have the same places in the model share a
 * compiled decoder. What was opened last is what answers.
 */
export class ChatModels {
  readonly #device: Device;
  readonly #options: ChatModelOptions;
  /** By the structure of the adapters that they serve. */
  readonly #decoders = new Map<string, Decoder>();
  #base: Base | undefined;
  #format: string | undefined;

  constructor(device: Device, options: ChatModelOptions) {
    this.#device = device;
    this.#options = options;
    this.#format = options.chatFormat;
  }

  /** Of the adapters. */
  get names(): string[] {
    return [...this.#options.adapters.keys()];
  }

  /** The directory of the base model, once something has been opened. */
  get base(): string | undefined {
    return this.#base?.directory ?? this.#options.model;
  }

  /** The model with this adapter; undefined for none. */
  async open(adapter: string | undefined): Promise<ChatModel> {
    const given = adapter === undefined ? undefined : this.#options.adapters.get(adapter);
    if (adapter !== undefined && given === undefined)
      throw new EspalierError(
        "unknown-adapter",
        `There is no adapter ${JSON.stringify(adapter)}; ${this.names.length > 0 ? `those given are ${this.names.join(", ")}` : "none was given with --adapter name=directory"}.`,
      );
    const directory = given === undefined ? undefined : await modelDirectory(given);
    // All stand on the first one's base; and where that was trained in a built-in format, the base is spoken to in it.
    this.#base ??= await openBase(
      this.#options.model ?? (directory === undefined ? undefined : await baseOf(directory)),
      this.#options.baseDtype,
    );
    const { adapters, tokenizer } = this.#base;
    if (adapter !== undefined && !adapters.names.includes(adapter)) for (const note of adapters.add(adapter, directory!)) say(note);
    const record = readTaskRecord(directory ?? this.#base.directory);
    if (record?.task === "classification")
      throw new EspalierError(
        "not-a-language-model",
        `${given ?? this.#base.directory} is a classifier; it cannot continue texts. Use espalier classify.`,
      );
    const template = chatTemplateOf(this.#base.directory, this.#format, record);
    this.#format ??= template.format;
    adapters.switch(adapter);
    const { structure } = adapters;
    const decoder = this.#decoders.get(structure) ?? (await Decoder.create(this.#device, this.#base.model));
    this.#decoders.set(structure, decoder);
    return { adapter, decoder, tokenizer, template, end: turnEnd(tokenizer, template) };
  }

  async dispose(): Promise<void> {
    for (const decoder of this.#decoders.values()) await decoder.dispose();
  }
}

async function openBase(directory: string | undefined, baseDtype: BaseDtype | undefined): Promise<Base> {
  const { model, tokenizer, base } = await openLanguageModel(directory, undefined, baseDtype);
  return { directory: base, model, tokenizer, adapters: new AdapterSet(model) };
}
