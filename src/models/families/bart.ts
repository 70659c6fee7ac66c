/**
 * BART (Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and Comprehension"):
 * - encoder and decoder share the embedding, which is the head too, with a bias of the logits
 * - learned positions, stored from row 2 on; LayerNorm after the sum of embedding and position
 * - LayerNorm after each residual; GELU feed-forward; biases everywhere
 * Dropout is not applied while training.
 */
import { z } from "zod";
import { type Dim, Random, type Tensor } from "../../graph/index.ts";
import {
  activationNames,
  activations,
  DecoderContext,
  type DecoderInputs,
  type DecoderOutputs,
  Embedding,
  type Initializer,
  type KeyValues,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  MultiHeadAttention,
  normal,
  Parameter,
  zeros,
} from "../../nn/index.ts";
import { add, mul, range, unsqueeze } from "../../ops/index.ts";
import type { Family } from "../family.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";
import { type Encoded, Seq2SeqLM, type Seq2SeqOptions, type TextSource } from "../seq2seq.ts";
import { paddingMask } from "../text-encoder.ts";

/** Rows of the tables of positions before the first. */
const firstPosition = 2;
const epsilon = 1e-5;

const schema = z.looseObject({
  model_type: z.literal("bart"),
  vocab_size: size,
  d_model: size,
  encoder_layers: layerCount,
  encoder_ffn_dim: size,
  encoder_attention_heads: size,
  decoder_layers: layerCount,
  decoder_ffn_dim: size,
  decoder_attention_heads: size,
  max_position_embeddings: size.default(1024),
  activation_function: z.enum(activationNames).default("gelu"),
  init_std: z.number().positive().default(0.02),
  scale_embedding: z.boolean().default(false),
  decoder_start_token_id: z.int().nonnegative().default(2),
  tie_word_embeddings: z.literal(true).default(true),
  // What old configurations can say is not computed, and must not be passed over.
  normalize_before: z.literal(false).default(false),
  add_final_layer_norm: z.literal(false).default(false),
  normalize_embedding: z.literal(true).default(true),
  static_position_embeddings: z.literal(false).default(false),
});

type BartConfig = z.output<typeof schema>;

function readConfig(json: unknown, file: string): BartConfig {
  const config = parseConfig(schema, json, file);
  for (const key of ["encoder_attention_heads", "decoder_attention_heads"] as const)
    if (config.d_model % config[key] !== 0)
      throw badConfig(file, [`"d_model" (${config.d_model}) must be a multiple of "${key}" (${config[key]})`]);
  return config;
}

class BartEncoderLayer extends Module {
  readonly self_attn: MultiHeadAttention;
  readonly self_attn_layer_norm: LayerNorm;
  readonly fc1: Layer;
  readonly fc2: Layer;
  readonly final_layer_norm: LayerNorm;
  readonly #activation: BartConfig["activation_function"];

  constructor(config: BartConfig, init: Initializer) {
    super();
    const { d_model: hidden, encoder_ffn_dim: inner } = config;
    this.#activation = config.activation_function;
    this.self_attn = new MultiHeadAttention(hidden, config.encoder_attention_heads, { init });
    this.self_attn_layer_norm = new LayerNorm(hidden, epsilon);
    this.fc1 = new Linear(hidden, inner, { init, bias: true });
    this.fc2 = new Linear(inner, hidden, { init, bias: true });
    this.final_layer_norm = new LayerNorm(hidden, epsilon);
  }

  forward(x: Tensor, mask: Tensor | undefined): Tensor {
    const attended = this.self_attn_layer_norm.forward(add(x, this.self_attn.forward(x, undefined, mask)));
    return this.final_layer_norm.forward(add(attended, this.fc2.forward(activations[this.#activation](this.fc1.forward(attended)))));
  }
}

class BartDecoderLayer extends Module {
  readonly self_attn: MultiHeadAttention;
  readonly self_attn_layer_norm: LayerNorm;
  readonly encoder_attn: MultiHeadAttention;
  readonly encoder_attn_layer_norm: LayerNorm;
  readonly fc1: Layer;
  readonly fc2: Layer;
  readonly final_layer_norm: LayerNorm;
  readonly #activation: BartConfig["activation_function"];

  constructor(config: BartConfig, init: Initializer) {
    super();
    const { d_model: hidden, decoder_ffn_dim: inner, decoder_attention_heads: heads } = config;
    this.#activation = config.activation_function;
    this.self_attn = new MultiHeadAttention(hidden, heads, { init });
    this.self_attn_layer_norm = new LayerNorm(hidden, epsilon);
    this.encoder_attn = new MultiHeadAttention(hidden, heads, { init });
    this.encoder_attn_layer_norm = new LayerNorm(hidden, epsilon);
    this.fc1 = new Linear(hidden, inner, { init, bias: true });
    this.fc2 = new Linear(inner, hidden, { init, bias: true });
    this.final_layer_norm = new LayerNorm(hidden, epsilon);
  }

  forward(x: Tensor, context: DecoderContext, source: KeyValues, mask: Tensor | undefined, past?: KeyValues) {
    const { y, present } = this.self_attn.decode(x, context, past);
    const attended = this.self_attn_layer_norm.forward(add(x, y));
    const crossed = this.encoder_attn_layer_norm.forward(add(attended, this.encoder_attn.forward(attended, [source], mask)));
    const fed = this.fc2.forward(activations[this.#activation](this.fc1.forward(crossed)));
    return { y: this.final_layer_norm.forward(add(crossed, fed)), present };
  }
}

class BartStack<L extends Module> extends Module {
  readonly embed_positions: Embedding;
  readonly layers: L[];
  readonly layernorm_embedding: LayerNorm;

  constructor(config: BartConfig, init: Initializer, layers: L[]) {
    super();
    this.embed_positions = new Embedding(config.max_position_embeddings + firstPosition, config.d_model, { init });
    this.layers = layers;
    this.layernorm_embedding = new LayerNorm(config.d_model, epsilon);
  }

  /** Embedded tokens and their positions → what the first layer reads. */
  forward(embedded: Tensor, positions: Tensor): Tensor {
    return this.layernorm_embedding.forward(add(embedded, this.embed_positions.forward(add(positions, firstPosition))));
  }
}

class BartModel extends Module {
  readonly shared: Embedding;
  readonly encoder: BartStack<BartEncoderLayer>;
  readonly decoder: BartStack<BartDecoderLayer>;

  constructor(config: BartConfig, init: Initializer) {
    super();
    const layers = <L>(count: number, make: () => L) => Array.from({ length: count }, make);
    this.shared = new Embedding(config.vocab_size, config.d_model, { init });
    this.encoder = new BartStack(
      config,
      init,
      layers(config.encoder_layers, () => new BartEncoderLayer(config, init)),
    );
    this.decoder = new BartStack(
      config,
      init,
      layers(config.decoder_layers, () => new BartDecoderLayer(config, init)),
    );
  }

  forward(): void {}
}

/** BART with its language-model head (`BartForConditionalGeneration`). */
export class BartForConditionalGeneration extends Seq2SeqLM<TextSource> {
  readonly architecture = "BartForConditionalGeneration";
  readonly config: BartConfig;
  readonly model: BartModel;
  /** [1, vocabulary], added to the logits. */
  readonly final_logits_bias: Parameter;

  constructor(config: BartConfig, { seed = 0 }: Seq2SeqOptions = {}) {
    super();
    this.config = config;
    this.model = new BartModel(config, normal(new Random(seed), config.init_std));
    this.final_logits_bias = new Parameter([1, config.vocab_size], () => zeros([1, config.vocab_size]));
    this.assignNames();
  }

  get contextLength(): number {
    return this.config.max_position_embeddings;
  }

  override get sourceLength(): number {
    return this.config.max_position_embeddings;
  }

  get startId(): number {
    return this.config.decoder_start_token_id;
  }

  get embedding(): Embedding {
    return this.model.shared;
  }

  get head(): undefined {
    return undefined;
  }

  #embed(ids: Tensor): Tensor {
    const embedded = this.model.shared.forward(ids);
    return this.config.scale_embedding ? mul(embedded, Math.sqrt(this.config.d_model)) : embedded;
  }

  override sourceMask({ attentionMask }: TextSource): Tensor | undefined {
    return paddingMask(attentionMask);
  }

  states({ ids, attentionMask }: TextSource): Tensor {
    const { encoder } = this.model;
    const mask = paddingMask(attentionMask);
    const embedded = encoder.forward(this.#embed(ids), unsqueeze(range(ids.shape[1] as Dim), 0));
    return encoder.layers.reduce((x, layer) => layer.forward(x, mask), embedded);
  }

  keyValues(states: Tensor): KeyValues[] {
    return this.model.decoder.layers.map((layer) => layer.encoder_attn.keyValues(states));
  }

  decode(inputs: DecoderInputs, { keyValues, mask }: Encoded): DecoderOutputs {
    const { decoder } = this.model;
    const embedded = inputs.embeddings ?? this.#embed(inputs.ids!);
    const context = new DecoderContext(inputs, embedded);
    let hidden = decoder.forward(embedded, context.positions);
    const present: KeyValues[] = [];
    for (const [i, layer] of decoder.layers.entries()) {
      const out = layer.forward(hidden, context, keyValues[i]!, mask, inputs.past?.[i]);
      hidden = out.y;
      present.push(out.present);
    }
    return { hidden, present };
  }

  override logits(hidden: Tensor): Tensor {
    return add(super.logits(hidden), this.final_logits_bias.value);
  }
}

export const bart: Family<BartConfig> = {
  name: "Bart",
  models: "BART",
  modelTypes: ["bart"],
  prefix: "model",
  // Copies of the shared embedding, and what the first conversions carried along.
  derived: /^(model\.(en|de)coder\.embed_tokens|lm_head)\.weight$|^model\.(en|de)coder\.version$/,
  optional: /^final_logits_bias$/,
  readConfig,
  seq2seq: (config, options) => new BartForConditionalGeneration(config, options),
};
