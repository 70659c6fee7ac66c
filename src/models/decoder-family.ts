/** Heads on a decoder, the same for every family: what differs is the decoder, and what the fields are called. */
import { type Dim, mulDims, Random, type Tensor } from "../graph/index.ts";
import { type Initializer, type Layer, Linear, normal, zeros } from "../nn/index.ts";
import { add, dimension, gather, mul, range, reshape, softcap, sub } from "../ops/index.ts";
import { CausalLM, type DecoderModel, type LanguageModelConfig, SequenceClassifier } from "./causal-lm.ts";
import type { Family } from "./family.ts";

/** A family of decoders: its language models and its classifiers follow. */
export interface DecoderFamilyOptions<C extends LanguageModelConfig>
  extends Pick<Family<C>, "models" | "modelTypes" | "rename" | "derived"> {
  /** As in the class names of transformers; a function where the family serves several. */
  name: string | ((config: C) => string);
  /** The class of transformers where it is not called after the name and the task. */
  className?(config: C, task: HeadTask): string | undefined;
  /** The field that holds the decoder in models with a head. */
  prefix: string;
  /** The field of the language-model head. Default "lm_head". */
  headName?: string;
  readConfig(json: unknown, file: string): C;
  decoder(config: C, init: Initializer): DecoderModel;
  /** Deviation of fresh weights. */
  deviation(config: C): number;
  /** Tokens that the model can see. */
  contextLength(config: C): number;
  /** Whether the embedding serves as the head. */
  tied(config: C): boolean;
  /** Logits are kept within ± this. */
  softcap?(config: C): number | undefined;
}

type HeadTask = "ForCausalLM" | "ForSequenceClassification";

const classOf = <C extends LanguageModelConfig>({ name, className }: DecoderFamilyOptions<C>, config: C, task: HeadTask): string =>
  className?.(config, task) ?? `${typeof name === "string" ? name : name(config)}${task}`;

/** A decoder with a language-model head. */
export class DecoderForCausalLM<C extends LanguageModelConfig = LanguageModelConfig> extends CausalLM {
  readonly architecture: string;
  readonly config: C;
  readonly softcap: number | undefined;
  readonly #contextLength: number;
  readonly #prefix: string;
  readonly #headName: string;

  constructor(options: DecoderFamilyOptions<C>, config: C, seed = 0) {
    super();
    this.architecture = classOf(options, config, "ForCausalLM");
    this.config = config;
    this.#contextLength = options.contextLength(config);
    this.softcap = options.softcap?.(config);
    this.#prefix = options.prefix;
    this.#headName = options.headName ?? "lm_head";
    const init = normal(new Random(seed), options.deviation(config));
    const decoder = options.decoder(config, init);
    const [vocabulary, width] = decoder.embedding.weight.shape as [number, number];
    // Fields are the checkpoint's names.
    Object.assign(this, { [this.#prefix]: decoder });
    if (!options.tied(config)) Object.assign(this, { [this.#headName]: new Linear(width, vocabulary, { init }) });
    this.assignNames();
  }

  get decoder(): DecoderModel {
    return (this as unknown as Record<string, DecoderModel>)[this.#prefix]!;
  }

  get contextLength(): number {
    return this.#contextLength - this.decoder.virtualTokens;
  }

  get head(): Layer | undefined {
    return (this as unknown as Record<string, Layer | undefined>)[this.#headName];
  }

  override get headPath(): string {
    return this.#headName;
  }

  override untieHead(head: Layer = headOf(this.decoder)): () => void {
    if (this.head) return () => {};
    Object.assign(this, { [this.#headName]: head });
    this.assignNames();
    return () => {
      delete (this as unknown as Record<string, unknown>)[this.#headName];
      this.assignNames();
    };
  }

  override logits(hidden: Tensor): Tensor {
    const logits = super.logits(hidden);
    return this.softcap === undefined ? logits : softcap(logits, this.softcap);
  }
}

/** A head with the values that the embedding has now. */
function headOf({ embedding: { weight } }: DecoderModel): Linear {
  const [vocabulary, width] = weight.shape as [number, number];
  const head = new Linear(width, vocabulary, { init: zeros });
  head.weight.storage = weight.storage;
  head.weight.frozen = weight.frozen;
  return head;
}

/** A decoder with a classification head, [labels, hidden] without a bias, on the last token that is not padding. */
export class DecoderForSequenceClassification<C extends LanguageModelConfig = LanguageModelConfig> extends SequenceClassifier {
  readonly architecture: string;
  readonly config: C;
  readonly #contextLength: number;
  declare readonly score: Layer;
  readonly #prefix: string;

  constructor(options: DecoderFamilyOptions<C>, config: C, labels: number, seed = 0) {
    super();
    this.architecture = classOf(options, config, "ForSequenceClassification");
    this.config = config;
    this.#contextLength = options.contextLength(config);
    this.#prefix = options.prefix;
    const init = normal(new Random(seed), options.deviation(config));
    const decoder = options.decoder(config, init);
    const score = new Linear(decoder.embedding.weight.shape[1]!, labels, { init });
    Object.assign(this, { [this.#prefix]: decoder, score });
    this.assignNames();
  }

  get decoder(): DecoderModel {
    return (this as unknown as Record<string, DecoderModel>)[this.#prefix]!;
  }

  get contextLength(): number {
    return this.#contextLength - this.decoder.virtualTokens;
  }

  get head(): Layer {
    return this.score;
  }

  forward(ids: Tensor, lengths: Tensor): Tensor {
    const { hidden } = this.decoder.forward({ ids });
    const [batch, time, width] = hidden.shape as [Dim, Dim, Dim];
    // Padding stands on the right, where causal attention hides it from every real token.
    const rows = add(mul(range(batch), dimension(time)), sub(lengths, 1));
    return this.score.forward(gather(reshape(hidden, [mulDims(batch, time), width]), rows, 0));
  }
}

/** The family of a decoder, for the table. */
export const decoderFamily = <C extends LanguageModelConfig>(options: DecoderFamilyOptions<C>): Family<C> => ({
  ...options,
  name: typeof options.name === "string" ? options.name : options.models,
  causalLM: (config, seed) => new DecoderForCausalLM(options, config, seed),
  sequenceClassifier: (config, labels, seed) => new DecoderForSequenceClassification(options, config, labels, seed),
});
