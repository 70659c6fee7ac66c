/**
 * DistilBERT (Sanh et al., "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter"): BERT with half the layers under names of
 * its own, without token types and without a pooler; the classification head (dense, ReLU, projection) reads the first token.
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  activationNames,
  activations,
  Embedding,
  type Initializer,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  multiHeadAttention,
} from "../../nn/index.ts";
import { add, range, relu, unsqueeze } from "../../ops/index.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";
import { type EncoderInputs, type EncoderOutputs, encoderFamily, firstToken, paddingMask, TextEncoder } from "../text-encoder.ts";
import { TiedProjection } from "./electra.ts";

const schema = z.looseObject({
  model_type: z.literal("distilbert"),
  vocab_size: size,
  dim: size,
  hidden_dim: size,
  n_layers: layerCount,
  n_heads: size,
  activation: z.enum(activationNames).default("gelu"),
  max_position_embeddings: size.default(512),
  initializer_range: z.number().positive().default(0.02),
  tie_word_embeddings: z.literal(true).default(true),
});

type DistilBertConfig = z.output<typeof schema>;

function readConfig(json: unknown, file: string): DistilBertConfig {
  const config = parseConfig(schema, json, file);
  if (config.dim % config.n_heads !== 0)
    throw badConfig(file, [`"dim" (${config.dim}) must be a multiple of "n_heads" (${config.n_heads})`]);
  return config;
}

const epsilon = 1e-12;

class Embeddings extends Module {
  readonly word_embeddings: Embedding;
  readonly position_embeddings: Embedding;
  readonly LayerNorm: LayerNorm;

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    this.word_embeddings = new Embedding(config.vocab_size, config.dim, { init });
    this.position_embeddings = new Embedding(config.max_position_embeddings, config.dim, { init });
    this.LayerNorm = new LayerNorm(config.dim, epsilon);
  }

  forward(ids: Tensor): Tensor {
    const positions = unsqueeze(range(ids.shape[1]!), 0);
    return this.LayerNorm.forward(add(this.word_embeddings.forward(ids), this.position_embeddings.forward(positions)));
  }
}

class SelfAttention extends Module {
  readonly q_lin: Layer;
  readonly k_lin: Layer;
  readonly v_lin: Layer;
  readonly out_lin: Layer;
  readonly #heads: number;

  constructor({ dim, n_heads }: DistilBertConfig, init: Initializer) {
    super();
    this.#heads = n_heads;
    const linear = () => new Linear(dim, dim, { init, bias: true });
    [this.q_lin, this.k_lin, this.v_lin, this.out_lin] = [linear(), linear(), linear(), linear()];
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    return this.out_lin.forward(multiHeadAttention(this.q_lin.forward(x), this.k_lin.forward(x), this.v_lin.forward(x), this.#heads, mask));
  }
}

class FeedForward extends Module {
  readonly lin1: Layer;
  readonly lin2: Layer;
  readonly #activation: (x: Tensor) => Tensor;

  constructor({ dim, hidden_dim, activation }: DistilBertConfig, init: Initializer) {
    super();
    this.lin1 = new Linear(dim, hidden_dim, { init, bias: true });
    this.lin2 = new Linear(hidden_dim, dim, { init, bias: true });
    this.#activation = activations[activation];
  }

  forward(x: Tensor): Tensor {
    return this.lin2.forward(this.#activation(this.lin1.forward(x)));
  }
}

class Block extends Module {
  readonly attention: SelfAttention;
  readonly sa_layer_norm: LayerNorm;
  readonly ffn: FeedForward;
  readonly output_layer_norm: LayerNorm;

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    this.attention = new SelfAttention(config, init);
    this.sa_layer_norm = new LayerNorm(config.dim, epsilon);
    this.ffn = new FeedForward(config, init);
    this.output_layer_norm = new LayerNorm(config.dim, epsilon);
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    const attended = this.sa_layer_norm.forward(add(this.attention.forward(x, mask), x));
    return this.output_layer_norm.forward(add(this.ffn.forward(attended), attended));
  }
}

class Transformer extends Module {
  readonly layer: Block[];

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    this.layer = Array.from({ length: config.n_layers }, () => new Block(config, init));
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    return this.layer.reduce((hidden, block) => block.forward(hidden, mask), x);
  }
}

class DistilBertModel extends TextEncoder {
  readonly embeddings: Embeddings;
  readonly transformer: Transformer;

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    this.embeddings = new Embeddings(config, init);
    this.transformer = new Transformer(config, init);
  }

  get embedding(): Embedding {
    return this.embeddings.word_embeddings;
  }

  forward({ ids, attentionMask }: EncoderInputs): EncoderOutputs {
    return { hidden: this.transformer.forward(this.embeddings.forward(ids), paddingMask(attentionMask)) };
  }
}

export const distilbert = encoderFamily<DistilBertConfig>({
  name: "DistilBert",
  models: "DistilBERT",
  modelTypes: ["distilbert"],
  prefix: "distilbert",
  // The head's weight is the embedding's table, which some checkpoints hold again.
  derived: /embeddings\.position_ids$|^vocab_projector\.weight$/,
  readConfig,
  encoder: (config, init) => new DistilBertModel(config, init),
  width: (config) => config.dim,
  deviation: (config) => config.initializer_range,
  contextLength: (config) => config.max_position_embeddings,
  maskedLMHead: (config, init) => ({
    modules: {
      vocab_transform: new Linear(config.dim, config.dim, { init, bias: true }),
      vocab_layer_norm: new LayerNorm(config.dim, epsilon),
      vocab_projector: new TiedProjection(config.vocab_size),
    },
    forward: ({ vocab_transform, vocab_layer_norm }, hidden) =>
      (vocab_layer_norm as LayerNorm).forward(activations[config.activation]((vocab_transform as Layer).forward(hidden))),
    bias: ({ vocab_projector }) => (vocab_projector as TiedProjection).bias,
  }),
  sequenceHead: (config, init, labels) => ({
    modules: {
      pre_classifier: new Linear(config.dim, config.dim, { init, bias: true }),
      classifier: new Linear(config.dim, labels, { init, bias: true }),
    },
    forward: ({ pre_classifier, classifier }, { hidden }) =>
      (classifier as Layer).forward(relu((pre_classifier as Layer).forward(firstToken(hidden)))),
    last: ({ classifier }) => classifier as Layer,
  }),
  pooled: false,
});
