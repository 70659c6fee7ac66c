/** Encoders of text: what the rest of the house knows of them, and heads on an encoder, the same for every family. */
import { type Dim, Random, type Tensor } from "../graph/index.ts";
import { type Embedding, type Initializer, type Layer, Linear, Module, normal, type Parameter } from "../nn/index.ts";
import {
  add,
  cast,
  div,
  greaterOrEqual,
  hiddenScore,
  less,
  linear,
  max,
  maximum,
  mean,
  mul,
  range,
  reshape,
  slice,
  sqrt,
  squeeze,
  sum,
  sumOfSquares,
  unsqueeze,
  where,
} from "../ops/index.ts";
import { type LanguageModelConfig, SequenceClassifier } from "./causal-lm.ts";
import type { Family } from "./family.ts";

export interface EncoderInputs {
  /** int64 [batch, time]. */
  ids: Tensor;
  /** int64 [batch, time]: 1 where there is a token, 0 where there is padding. Default: tokens everywhere. */
  attentionMask?: Tensor | undefined;
  /** int64 [batch, time]: which of two texts a token belongs to. Default 0. */
  tokenTypes?: Tensor | undefined;
}

export interface EncoderOutputs {
  /** [batch, time, width]. */
  hidden: Tensor;
  /** [batch, width], where the encoder has a pooler. */
  pooled?: Tensor | undefined;
}

/** An encoder without heads. */
export abstract class TextEncoder extends Module {
  /** The table of tokens. */
  abstract get embedding(): Embedding;
  abstract override forward(inputs: EncoderInputs): EncoderOutputs;
}

/** Added to attention scores: hides padding. int64 [batch, keys] → [batch, 1, 1, keys]. */
export function paddingMask(attentionMask: Tensor | undefined): Tensor | undefined {
  if (!attentionMask) return undefined;
  const [batch, keys] = attentionMask.shape as [Dim, Dim];
  return where(greaterOrEqual(reshape(attentionMask, [batch, 1, 1, keys]), 1), 0, hiddenScore);
}

/** int64 [batch, time] of right-padded rows with `lengths` [batch] tokens. */
export function lengthMask(lengths: Tensor, time: Dim): Tensor {
  const [batch] = lengths.shape as [Dim];
  return cast(less(reshape(range(time), [1, time]), reshape(lengths, [batch, 1])), "int64");
}

type Fields = Readonly<Record<string, Module>>;

/** A head: the modules that hold its parameters, by the fields of the model, and what it computes with those that stand there then. */
export interface Head<Input> {
  modules: Fields;
  forward(modules: Fields, input: Input): Tensor;
}

/** A family of text encoders: its encoders and their heads follow. */
export interface EncoderFamilyOptions<C extends LanguageModelConfig>
  extends Pick<Family<C>, "models" | "modelTypes" | "rename" | "derived" | "optional"> {
  /** As in the class names of transformers; a function where the family serves several. */
  name: string | ((config: C) => string);
  /** The field that holds the encoder in models with a head. */
  prefix: string;
  readConfig(json: unknown, file: string): C;
  /** @param pooler whether {@link EncoderOutputs.pooled} is wanted */
  encoder(config: C, init: Initializer, pooler: boolean): TextEncoder;
  width(config: C): number;
  deviation(config: C): number;
  contextLength(config: C): number;
  /** hidden [..., width] → what is multiplied with the embedding's table; `bias` finds the bias of the logits. */
  maskedLMHead(config: C, init: Initializer): Head<Tensor> & { bias(modules: Fields): Parameter };
  /** Outputs of the encoder → logits [batch, labels]; `last` finds the layer whose rows are the classes. */
  sequenceHead(config: C, init: Initializer, labels: number): Head<EncoderOutputs> & { last(modules: Fields): Layer };
  /** Whether the head on sequences reads {@link EncoderOutputs.pooled}. */
  pooled: boolean;
}

const nameOf = <C extends LanguageModelConfig>({ name }: EncoderFamilyOptions<C>, config: C): string =>
  typeof name === "string" ? name : name(config);

const fieldsOf = (model: Module): Fields => model as unknown as Fields;

/** An encoder under the name that it has in checkpoints, and what all models of it share. */
abstract class EncoderModel<C extends LanguageModelConfig> extends Module {
  readonly architecture: string;
  readonly config: C;
  readonly contextLength: number;
  readonly #prefix: string;

  constructor(options: EncoderFamilyOptions<C>, config: C, task: string, init: Initializer, pooler: boolean) {
    super();
    this.architecture = `${nameOf(options, config)}${task}`;
    this.config = config;
    this.contextLength = options.contextLength(config);
    this.#prefix = options.prefix;
    Object.assign(this, { [this.#prefix]: options.encoder(config, init, pooler) });
  }

  get encoder(): TextEncoder {
    return fieldsOf(this)[this.#prefix] as TextEncoder;
  }
}

/** An encoder that fills in masked tokens. */
export class MaskedLM<C extends LanguageModelConfig = LanguageModelConfig> extends EncoderModel<C> {
  readonly #head: ReturnType<EncoderFamilyOptions<C>["maskedLMHead"]>;

  constructor(options: EncoderFamilyOptions<C>, config: C, seed = 0) {
    const init = normal(new Random(seed), options.deviation(config));
    super(options, config, "ForMaskedLM", init, false);
    this.#head = options.maskedLMHead(config, init);
    Object.assign(this, this.#head.modules);
    this.assignNames();
  }

  forward(inputs: EncoderInputs): EncoderOutputs {
    return this.encoder.forward(inputs);
  }

  /** hidden [..., width] → [..., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    const transformed = this.#head.forward(fieldsOf(this), hidden);
    return add(linear(transformed, this.encoder.embedding.table), this.#head.bias(fieldsOf(this)).value);
  }
}

/** An encoder that gives each token logits over classes. */
export class TokenClassifier<C extends LanguageModelConfig = LanguageModelConfig> extends EncoderModel<C> {
  readonly classifier: Layer;
  /** Whether the head has initial values only, because no checkpoint brought any. */
  headIsFresh = true;
  /** Paths of the modules that a checkpoint brought no values for. An adapter has to bring theirs. */
  freshModules: readonly string[] = [];

  constructor(options: EncoderFamilyOptions<C>, config: C, labels: number, seed = 0) {
    const init = normal(new Random(seed), options.deviation(config));
    super(options, config, "ForTokenClassification", init, false);
    this.classifier = new Linear(options.width(config), labels, { init, bias: true });
    this.assignNames();
  }

  get head(): Layer {
    return this.classifier;
  }

  /** → logits [batch, time, labels]. */
  forward(inputs: EncoderInputs): Tensor {
    return this.classifier.forward(this.encoder.forward(inputs).hidden);
  }
}

/** An encoder that gives each sequence logits over classes. */
export class EncoderForSequenceClassification<C extends LanguageModelConfig = LanguageModelConfig> extends SequenceClassifier {
  readonly architecture: string;
  readonly config: C;
  readonly contextLength: number;
  readonly #prefix: string;
  readonly #head: ReturnType<EncoderFamilyOptions<C>["sequenceHead"]>;

  constructor(options: EncoderFamilyOptions<C>, config: C, labels: number, seed = 0) {
    super();
    const init = normal(new Random(seed), options.deviation(config));
    this.architecture = `${nameOf(options, config)}ForSequenceClassification`;
    this.config = config;
    this.contextLength = options.contextLength(config);
    this.#prefix = options.prefix;
    this.#head = options.sequenceHead(config, init, labels);
    Object.assign(this, { [this.#prefix]: options.encoder(config, init, options.pooled), ...this.#head.modules });
    this.assignNames();
  }

  get encoder(): TextEncoder {
    return fieldsOf(this)[this.#prefix] as TextEncoder;
  }

  get head(): Layer {
    return this.#head.last(fieldsOf(this));
  }

  forward(ids: Tensor, lengths: Tensor): Tensor {
    return this.classify({ ids, attentionMask: lengthMask(lengths, ids.shape[1]!) });
  }

  /** {@link forward} for any mask, and with token types where two texts are told apart. */
  classify(inputs: EncoderInputs): Tensor {
    return this.#head.forward(fieldsOf(this), this.encoder.forward(inputs));
  }
}

/** How token states become one vector: their mean, the first one, or the largest element of each column; padding does not count. */
export type Pooling = "mean" | "cls" | "max";

/** An encoder that turns each text into one vector (Reimers and Gurevych, "Sentence-BERT"). */
export class SentenceEncoder<C extends LanguageModelConfig = LanguageModelConfig> extends EncoderModel<C> {
  /** Set by the loader from the directory's `1_Pooling/config.json` and `modules.json`, where it has them. */
  pooling: Pooling = "mean";
  /** Whether vectors are scaled to length 1. */
  normalize = true;
  /** Elements of a vector. */
  readonly width: number;

  constructor(options: EncoderFamilyOptions<C>, config: C, seed = 0) {
    super(options, config, "Model", normal(new Random(seed), options.deviation(config)), false);
    this.width = options.width(config);
    this.assignNames();
  }

  /** → [batch, width]. */
  forward(inputs: EncoderInputs): Tensor {
    return this.embed(this.encoder.forward(inputs), inputs.attentionMask);
  }

  /** The encoder's outputs → [batch, width]. */
  embed({ hidden }: EncoderOutputs, attentionMask: Tensor | undefined): Tensor {
    const pooled = pool(hidden, attentionMask, this.pooling);
    return this.normalize ? div(pooled, maximum(sqrt(sumOfSquares(pooled, -1, { keepDims: true })), 1e-12)) : pooled;
  }
}

function pool(hidden: Tensor, attentionMask: Tensor | undefined, pooling: Pooling): Tensor {
  if (pooling === "cls") return firstToken(hidden);
  if (!attentionMask) return (pooling === "mean" ? mean : max)(hidden, 1);
  const isToken = unsqueeze(attentionMask, 2);
  if (pooling === "max") return max(where(greaterOrEqual(isToken, 1), hidden, hiddenScore), 1);
  const weights = cast(isToken, hidden.dtype);
  return div(sum(mul(hidden, weights), 1), maximum(sum(weights, 1), 1e-9));
}

/** The first token's state, [batch, width]. */
export const firstToken = (hidden: Tensor): Tensor => squeeze(slice(hidden, 1, 0, 1), 1);

/** The family of an encoder, for the table. */
export const encoderFamily = <C extends LanguageModelConfig>(options: EncoderFamilyOptions<C>): Family<C> => ({
  ...options,
  name: typeof options.name === "string" ? options.name : options.models,
  maskedLM: (config, seed) => new MaskedLM(options, config, seed),
  sequenceClassifier: (config, labels, seed) => new EncoderForSequenceClassification(options, config, labels, seed),
  tokenClassifier: (config, labels, seed) => new TokenClassifier(options, config, labels, seed),
  sentenceEncoder: (config, seed) => new SentenceEncoder(options, config, seed),
});
