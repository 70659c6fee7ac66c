/**
 * GPT-NeoX (Black et al., "GPT-NeoX-20B") and Pythia (Biderman et al., "Pythia: A Suite for Analyzing Large Language Models"):
 * - attention and feed-forward side by side on the same residual (`use_parallel_residual`), each behind its own LayerNorm
 * - rotary embedding of the first part of each head
 * - `query_key_value` makes queries, keys and values head by head
 * - a head of its own, `embed_out`
 */
import { z } from "zod";
import type { Dim, Tensor } from "../../graph/index.ts";
import {
  activationNames,
  activations,
  attend,
  type DecoderContext,
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
  type Rotary,
  runLayers,
} from "../../nn/index.ts";
import { add, reshape, split, squeeze, transpose } from "../../ops/index.ts";
import { DecoderModel } from "../causal-lm.ts";
import { decoderFamily } from "../decoder-family.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";
import { ropeContext, ropeFields, rotaryOf, withRope } from "../rope.ts";

const schema = z.looseObject({
  model_type: z.literal("gpt_neox"),
  vocab_size: size,
  hidden_size: size,
  num_hidden_layers: layerCount,
  num_attention_heads: size,
  intermediate_size: size,
  hidden_act: z.enum(activationNames).default("gelu"),
  layer_norm_eps: z.number().positive().default(1e-5),
  use_parallel_residual: z.boolean().default(true),
  attention_bias: z.boolean().default(true),
  initializer_range: z.number().positive().default(0.02),
  tie_word_embeddings: z.boolean().default(false),
  ...ropeFields,
  /** Older names of rope_theta and partial_rotary_factor. */
  rotary_emb_base: z.number().positive().optional(),
  rotary_pct: z.number().positive().max(1).optional(),
});

type NeoxConfig = z.output<typeof schema>;

function readConfig(json: unknown, file: string): NeoxConfig {
  const parsed = parseConfig(schema, json, file);
  if (parsed.hidden_size % parsed.num_attention_heads !== 0)
    throw badConfig(file, [
      `"hidden_size" (${parsed.hidden_size}) must be a multiple of "num_attention_heads" (${parsed.num_attention_heads})`,
    ]);
  return withRope(
    {
      ...parsed,
      rope_theta: parsed.rotary_emb_base ?? parsed.rope_theta,
      partial_rotary_factor: parsed.partial_rotary_factor ?? parsed.rotary_pct ?? 0.25,
    },
    file,
  );
}

/** A projection to [batch, time, heads·3·width], whose heads have their queries, keys and values beside each other → three of [batch, heads, time, width]. */
export function splitByHead(fused: Tensor, heads: number): [q: Tensor, k: Tensor, v: Tensor] {
  const [batch, time, all] = fused.shape as [Dim, Dim, number];
  const parts = split(reshape(fused, [batch, time, heads, 3, all / (3 * heads)]), 3, 3);
  return parts.map((t) => transpose(squeeze(t, 3), [0, 2, 1, 3])) as [Tensor, Tensor, Tensor];
}

class NeoxAttention extends Module {
  readonly query_key_value: Layer;
  readonly dense: Layer;
  readonly #heads: number;
  readonly #rotary: Rotary;

  constructor({ hidden_size: hidden, num_attention_heads, attention_bias: bias }: NeoxConfig, rotary: Rotary, init: Initializer) {
    super();
    this.#heads = num_attention_heads;
    this.#rotary = rotary;
    this.query_key_value = new Linear(hidden, 3 * hidden, { init, bias });
    this.dense = new Linear(hidden, hidden, { init, bias });
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const [q, k, value] = splitByHead(this.query_key_value.forward(x), this.#heads);
    const present = { key: this.#rotary.apply(k, context.positions), value };
    const mixed = attend(this.#rotary.apply(q, context.positions), present, past, context);
    return { y: this.dense.forward(joinHeads(mixed)), present };
  }
}

class NeoxMLP extends Module {
  readonly dense_h_to_4h: Layer;
  readonly dense_4h_to_h: Layer;
  readonly #activation: NeoxConfig["hidden_act"];

  constructor(config: NeoxConfig, init: Initializer) {
    super();
    this.#activation = config.hidden_act;
    this.dense_h_to_4h = new Linear(config.hidden_size, config.intermediate_size, { init, bias: true });
    this.dense_4h_to_h = new Linear(config.intermediate_size, config.hidden_size, { init, bias: true });
  }

  forward(x: Tensor): Tensor {
    return this.dense_4h_to_h.forward(activations[this.#activation](this.dense_h_to_4h.forward(x)));
  }
}

class NeoxLayer extends Module {
  readonly input_layernorm: LayerNorm;
  readonly post_attention_layernorm: LayerNorm;
  readonly attention: NeoxAttention;
  readonly mlp: NeoxMLP;
  readonly #parallel: boolean;

  constructor(config: NeoxConfig, rotary: Rotary, init: Initializer) {
    super();
    this.#parallel = config.use_parallel_residual;
    this.input_layernorm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
    this.post_attention_layernorm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
    this.attention = new NeoxAttention(config, rotary, init);
    this.mlp = new NeoxMLP(config, init);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { y, present } = this.attention.forward(this.input_layernorm.forward(x), context, past);
    const attended = add(x, y);
    return { y: add(attended, this.mlp.forward(this.post_attention_layernorm.forward(this.#parallel ? x : attended))), present };
  }
}

class NeoxModel extends DecoderModel {
  readonly embed_in: Embedding;
  readonly layers: NeoxLayer[];
  readonly final_layer_norm: LayerNorm;

  constructor(config: NeoxConfig, init: Initializer) {
    super();
    this.embed_in = new Embedding(config.vocab_size, config.hidden_size, { init });
    const rotary = rotaryOf(config, config.hidden_size / config.num_attention_heads);
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new NeoxLayer(config, rotary, init));
    this.final_layer_norm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
  }

  get embedding(): Embedding {
    return this.embed_in;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    const { hidden, present } = runLayers(this.layers, this.embed(inputs), inputs);
    return { hidden: this.final_layer_norm.forward(hidden), present };
  }
}

export const gptNeox = decoderFamily<NeoxConfig>({
  name: "GPTNeoX",
  models: "GPT-NeoX, Pythia",
  modelTypes: ["gpt_neox"],
  prefix: "gpt_neox",
  headName: "embed_out",
  // Masks and tables that old checkpoints carry along.
  derived: /\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$/,
  readConfig,
  decoder: (config, init) => new NeoxModel(config, init),
  deviation: (config) => config.initializer_range,
  contextLength: ropeContext,
  tied: (config) => config.tie_word_embeddings,
});
