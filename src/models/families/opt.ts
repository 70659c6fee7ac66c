/**
 * OPT (Zhang et al., "OPT: Open Pre-trained Transformer Language Models"):
 * - learned positions, stored from row 2 on; biases everywhere; ReLU
 * - LayerNorm before attention and feed-forward, or, in OPT-350M, after them (`do_layer_norm_before`), and then none at the end
 * - an embedding narrower than the model has projections in and out (`word_embed_proj_dim`, OPT-350M)
 * - the embedding serves as the head
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  activationNames,
  activations,
  attend,
  DecoderContext,
  type DecoderInputs,
  type DecoderOutputs,
  Embedding,
  type Initializer,
  joinHeads,
  type KeyValues,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  runLayers,
  splitHeads,
} from "../../nn/index.ts";
import { add } from "../../ops/index.ts";
import { DecoderModel } from "../causal-lm.ts";
import { decoderFamily } from "../decoder-family.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";

/** Rows of the table of positions before the first. */
const firstPosition = 2;

const schema = z.looseObject({
  model_type: z.literal("opt"),
  vocab_size: size,
  hidden_size: size,
  ffn_dim: size,
  num_hidden_layers: layerCount,
  num_attention_heads: size,
  max_position_embeddings: size.default(2048),
  word_embed_proj_dim: size.optional(),
  do_layer_norm_before: z.boolean().default(true),
  _remove_final_layer_norm: z.boolean().default(false),
  enable_bias: z.boolean().default(true),
  layer_norm_elementwise_affine: z.literal(true).default(true),
  activation_function: z.enum(activationNames).default("relu"),
  init_std: z.number().positive().default(0.02),
  tie_word_embeddings: z.boolean().default(true),
});

type OptConfig = z.output<typeof schema>;

function readConfig(json: unknown, file: string): OptConfig {
  const config = parseConfig(schema, json, file);
  if (config.hidden_size % config.num_attention_heads !== 0)
    throw badConfig(file, [
      `"hidden_size" (${config.hidden_size}) must be a multiple of "num_attention_heads" (${config.num_attention_heads})`,
    ]);
  return config;
}

const epsilon = 1e-5;

class OptAttention extends Module {
  readonly k_proj: Layer;
  readonly v_proj: Layer;
  readonly q_proj: Layer;
  readonly out_proj: Layer;
  readonly #heads: number;

  constructor({ hidden_size: hidden, num_attention_heads, enable_bias: bias }: OptConfig, init: Initializer) {
    super();
    this.#heads = num_attention_heads;
    const linear = () => new Linear(hidden, hidden, { init, bias });
    [this.k_proj, this.v_proj, this.q_proj, this.out_proj] = [linear(), linear(), linear(), linear()];
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const heads = (layer: Layer) => splitHeads(layer.forward(x), this.#heads);
    const present = { key: heads(this.k_proj), value: heads(this.v_proj) };
    return { y: this.out_proj.forward(joinHeads(attend(heads(this.q_proj), present, past, context))), present };
  }
}

class OptDecoderLayer extends Module {
  readonly self_attn: OptAttention;
  readonly self_attn_layer_norm: LayerNorm;
  readonly fc1: Layer;
  readonly fc2: Layer;
  readonly final_layer_norm: LayerNorm;
  readonly #normFirst: boolean;
  readonly #activation: OptConfig["activation_function"];

  constructor(config: OptConfig, init: Initializer) {
    super();
    const { hidden_size: hidden, ffn_dim: inner, enable_bias: bias } = config;
    this.#normFirst = config.do_layer_norm_before;
    this.#activation = config.activation_function;
    this.self_attn = new OptAttention(config, init);
    this.self_attn_layer_norm = new LayerNorm(hidden, epsilon);
    this.fc1 = new Linear(hidden, inner, { init, bias });
    this.fc2 = new Linear(inner, hidden, { init, bias });
    this.final_layer_norm = new LayerNorm(hidden, epsilon);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const before = (t: Tensor, norm: LayerNorm) => (this.#normFirst ? norm.forward(t) : t);
    const after = (t: Tensor, norm: LayerNorm) => (this.#normFirst ? t : norm.forward(t));
    const { y, present } = this.self_attn.forward(before(x, this.self_attn_layer_norm), context, past);
    const attended = after(add(x, y), this.self_attn_layer_norm);
    const inner = activations[this.#activation](this.fc1.forward(before(attended, this.final_layer_norm)));
    return { y: after(add(attended, this.fc2.forward(inner)), this.final_layer_norm), present };
  }
}

class OptDecoder extends Module {
  readonly embed_tokens: Embedding;
  readonly embed_positions: Embedding;
  readonly project_out: Linear | undefined;
  readonly project_in: Linear | undefined;
  readonly final_layer_norm: LayerNorm | undefined;
  readonly layers: OptDecoderLayer[];

  constructor(config: OptConfig, init: Initializer) {
    super();
    const { hidden_size: hidden, word_embed_proj_dim: width = hidden } = config;
    this.embed_tokens = new Embedding(config.vocab_size, width, { init });
    this.embed_positions = new Embedding(config.max_position_embeddings + firstPosition, hidden, { init });
    this.project_out = width === hidden ? undefined : new Linear(hidden, width, { init });
    this.project_in = width === hidden ? undefined : new Linear(width, hidden, { init });
    const normed = config.do_layer_norm_before && !config._remove_final_layer_norm;
    this.final_layer_norm = normed ? new LayerNorm(hidden, epsilon) : undefined;
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new OptDecoderLayer(config, init));
  }

  forward(embedded: Tensor, inputs: DecoderInputs): DecoderOutputs {
    const context = new DecoderContext(inputs, embedded);
    const wide = this.project_in?.forward(embedded) ?? embedded;
    const positions = this.embed_positions.forward(add(context.positions, firstPosition));
    const { hidden, present } = runLayers(this.layers, add(wide, positions), inputs, context);
    const normed = this.final_layer_norm?.forward(hidden) ?? hidden;
    return { hidden: this.project_out?.forward(normed) ?? normed, present };
  }
}

class OptModel extends DecoderModel {
  readonly decoder: OptDecoder;

  constructor(config: OptConfig, init: Initializer) {
    super();
    this.decoder = new OptDecoder(config, init);
  }

  get embedding(): Embedding {
    return this.decoder.embed_tokens;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    return this.decoder.forward(this.embed(inputs), inputs);
  }
}

export const opt = decoderFamily<OptConfig>({
  name: "OPT",
  models: "OPT",
  modelTypes: ["opt"],
  prefix: "model",
  // What the first conversions carried along.
  derived: /^model\.decoder\.version$/,
  readConfig,
  decoder: (config, init) => new OptModel(config, init),
  deviation: (config) => config.init_std,
  contextLength: (config) => config.max_position_embeddings,
  tied: (config) => config.tie_word_embeddings,
});
