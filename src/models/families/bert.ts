/**
 * BERT (Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"), and the checkpoints of its shape, such as
 * MiniLM and most sentence encoders:
 * - learned positions and token types, added to the embedding; LayerNorm after the sum
 * - attention sees everything but padding; LayerNorm after each residual
 * - a pooler (dense, tanh) on the first token, which the classification head reads
 * - the masked-language-model head transforms the states and multiplies them with the embedding's table
 * Dropout is not applied while training.
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  type ActivationName,
  activationNames,
  activations,
  Embedding,
  type Initializer,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  multiHeadAttention,
  Parameter,
  zeros,
} from "../../nn/index.ts";
import { add, range, slice, unsqueeze } from "../../ops/index.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";
import { type EncoderInputs, type EncoderOutputs, encoderFamily, firstToken, paddingMask, TextEncoder } from "../text-encoder.ts";

/** What BERT's relatives share of it. */
export const bertFields = {
  vocab_size: size,
  hidden_size: size,
  num_hidden_layers: layerCount,
  num_attention_heads: size,
  intermediate_size: size,
  hidden_act: z.enum(activationNames).default("gelu"),
  max_position_embeddings: size.default(512),
  type_vocab_size: size.default(2),
  layer_norm_eps: z.number().positive().default(1e-12),
  initializer_range: z.number().positive().default(0.02),
  // What else the format can say is not computed, and must not be passed over.
  position_embedding_type: z.literal("absolute").default("absolute"),
  is_decoder: z.literal(false).default(false),
  tie_word_embeddings: z.literal(true).default(true),
};

const schema = z.looseObject(bertFields);

export type BertConfig = z.output<typeof schema>;

/** @throws EspalierError `bad-config` */
export function readBertConfig<S extends z.ZodType<BertConfig>>(own: S, json: unknown, file: string): z.output<S> {
  const config = parseConfig(own, json, file);
  const { hidden_size: hidden, num_attention_heads: heads } = config;
  if (hidden % heads !== 0) throw badConfig(file, [`"hidden_size" (${hidden}) must be a multiple of "num_attention_heads" (${heads})`]);
  return config;
}

/** Tokens, positions and token types: ids [batch, time] → [batch, time, width]. */
export class BertEmbeddings extends Module {
  readonly word_embeddings: Embedding;
  readonly position_embeddings: Embedding;
  readonly token_type_embeddings: Embedding;
  readonly LayerNorm: LayerNorm;

  constructor(config: BertConfig, width: number, init: Initializer) {
    super();
    this.word_embeddings = new Embedding(config.vocab_size, width, { init });
    this.position_embeddings = new Embedding(config.max_position_embeddings, width, { init });
    this.token_type_embeddings = new Embedding(config.type_vocab_size, width, { init });
    this.LayerNorm = new LayerNorm(width, config.layer_norm_eps);
  }

  /** @param positions int64 [batch or 1, time] */
  forward({ ids, tokenTypes }: EncoderInputs, positions: Tensor = unsqueeze(range(ids.shape[1]!), 0)): Tensor {
    const types = tokenTypes ? this.token_type_embeddings.forward(tokenTypes) : slice(this.token_type_embeddings.weight.value, 0, 0, 1);
    return this.LayerNorm.forward(add(add(this.word_embeddings.forward(ids), types), this.position_embeddings.forward(positions)));
  }
}

class BertSelfAttention extends Module {
  readonly query: Layer;
  readonly key: Layer;
  readonly value: Layer;
  readonly #heads: number;

  constructor({ hidden_size: hidden, num_attention_heads: heads }: BertConfig, init: Initializer) {
    super();
    this.#heads = heads;
    this.query = new Linear(hidden, hidden, { init, bias: true });
    this.key = new Linear(hidden, hidden, { init, bias: true });
    this.value = new Linear(hidden, hidden, { init, bias: true });
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    return multiHeadAttention(this.query.forward(x), this.key.forward(x), this.value.forward(x), this.#heads, mask);
  }
}

/** A projection, added to the residual and normalised. */
class BertOutput extends Module {
  readonly dense: Layer;
  readonly LayerNorm: LayerNorm;

  constructor(inputs: number, config: BertConfig, init: Initializer) {
    super();
    this.dense = new Linear(inputs, config.hidden_size, { init, bias: true });
    this.LayerNorm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.LayerNorm.forward(add(this.dense.forward(x), residual));
  }
}

class BertAttention extends Module {
  readonly self: BertSelfAttention;
  readonly output: BertOutput;

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.self = new BertSelfAttention(config, init);
    this.output = new BertOutput(config.hidden_size, config, init);
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    return this.output.forward(this.self.forward(x, mask), x);
  }
}

/** A projection and an activation. */
export class Activated extends Module {
  readonly dense: Layer;
  readonly #activation: (x: Tensor) => Tensor;

  constructor(inputs: number, outputs: number, activation: ActivationName, init: Initializer) {
    super();
    this.dense = new Linear(inputs, outputs, { init, bias: true });
    this.#activation = activations[activation];
  }

  forward(x: Tensor): Tensor {
    return this.#activation(this.dense.forward(x));
  }
}

class BertLayer extends Module {
  readonly attention: BertAttention;
  readonly intermediate: Activated;
  readonly output: BertOutput;

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.attention = new BertAttention(config, init);
    this.intermediate = new Activated(config.hidden_size, config.intermediate_size, config.hidden_act, init);
    this.output = new BertOutput(config.intermediate_size, config, init);
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    const attended = this.attention.forward(x, mask);
    return this.output.forward(this.intermediate.forward(attended), attended);
  }
}

export class BertEncoder extends Module {
  readonly layer: BertLayer[];

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.layer = Array.from({ length: config.num_hidden_layers }, () => new BertLayer(config, init));
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    return this.layer.reduce((hidden, layer) => layer.forward(hidden, mask), x);
  }
}

export class BertModel extends TextEncoder {
  readonly embeddings: BertEmbeddings;
  readonly encoder: BertEncoder;
  readonly pooler: Activated | undefined;

  constructor(config: BertConfig, init: Initializer, pooler: boolean) {
    super();
    this.embeddings = new BertEmbeddings(config, config.hidden_size, init);
    this.encoder = new BertEncoder(config, init);
    this.pooler = pooler ? new Activated(config.hidden_size, config.hidden_size, "tanh", init) : undefined;
  }

  get embedding(): Embedding {
    return this.embeddings.word_embeddings;
  }

  forward(inputs: EncoderInputs): EncoderOutputs {
    const hidden = this.encoder.forward(this.embeddings.forward(inputs), paddingMask(inputs.attentionMask));
    return { hidden, pooled: this.pooler?.forward(firstToken(hidden)) };
  }
}

/** The bias of logits whose weight is the embedding's table. */
export const logitBias = (vocabulary: number): Parameter => new Parameter([vocabulary], () => zeros([vocabulary]));

class BertPredictionTransform extends Module {
  readonly dense: Layer;
  readonly LayerNorm: LayerNorm;
  readonly #activation: (x: Tensor) => Tensor;

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.dense = new Linear(config.hidden_size, config.hidden_size, { init, bias: true });
    this.LayerNorm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
    this.#activation = activations[config.hidden_act];
  }

  forward(x: Tensor): Tensor {
    return this.LayerNorm.forward(this.#activation(this.dense.forward(x)));
  }
}

class BertPredictions extends Module {
  readonly transform: BertPredictionTransform;
  readonly bias: Parameter;

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.transform = new BertPredictionTransform(config, init);
    this.bias = logitBias(config.vocab_size);
  }

  forward(x: Tensor): Tensor {
    return this.transform.forward(x);
  }
}

class BertHeads extends Module {
  readonly predictions: BertPredictions;

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.predictions = new BertPredictions(config, init);
  }

  forward(x: Tensor): Tensor {
    return this.predictions.forward(x);
  }
}

/** Names of the first published checkpoints. */
export const modernNorms = (name: string): string =>
  name.replace(/LayerNorm\.gamma$/, "LayerNorm.weight").replace(/LayerNorm\.beta$/, "LayerNorm.bias");

export const bert = encoderFamily<BertConfig>({
  name: "Bert",
  models: "BERT, MiniLM",
  modelTypes: ["bert"],
  prefix: "bert",
  rename: modernNorms,
  // The head's weight is the embedding's table, which some checkpoints hold again.
  derived: /embeddings\.position_ids$|^cls\.predictions\.decoder\.|^cls\.seq_relationship\./,
  optional: /^bert\.pooler\./,
  readConfig: (json, file) => readBertConfig(schema, json, file),
  encoder: (config, init, pooler) => new BertModel(config, init, pooler),
  width: (config) => config.hidden_size,
  deviation: (config) => config.initializer_range,
  contextLength: (config) => config.max_position_embeddings,
  maskedLMHead: (config, init) => ({
    modules: { cls: new BertHeads(config, init) },
    forward: ({ cls }, hidden) => (cls as BertHeads).forward(hidden),
    bias: ({ cls }) => (cls as BertHeads).predictions.bias,
  }),
  sequenceHead: (config, init, labels) => ({
    modules: { classifier: new Linear(config.hidden_size, labels, { init, bias: true }) },
    forward: ({ classifier }, { pooled }) => (classifier as Layer).forward(pooled!),
    last: ({ classifier }) => classifier as Layer,
  }),
  pooled: true,
});
