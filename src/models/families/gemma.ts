/**
 * Gemma 2 (Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size") and the text models of Gemma 3 ("Gemma 3 Technical Report"):
 * - the embedding is scaled by √hidden and serves as the head
 * - RMSNorm, with 1 + weight as its factor, before and after attention and before and after the feed-forward
 * - layers with a sliding window among layers that see everything; scores are scaled by `query_pre_attn_scalar`^−½
 * - Gemma 2: scores and logits are soft-capped
 * - Gemma 3: queries and keys are normalised head by head; layers with a window have a rotary embedding of their own
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  activationNames,
  type DecoderContext,
  type DecoderInputs,
  type DecoderOutputs,
  Embedding,
  GatedMLP,
  GroupedQueryAttention,
  type Initializer,
  type KeyValues,
  Module,
  RMSNorm,
  type Rotary,
  runLayers,
} from "../../nn/index.ts";
import { add } from "../../ops/index.ts";
import { DecoderModel } from "../causal-lm.ts";
import { decoderFamily } from "../decoder-family.ts";
import { badConfig, checkHeads, parseConfig, size } from "../read-config.ts";
import { type RopeParameters, ropeFields, ropeParametersSchema, rotaryOf, withRope } from "../rope.ts";
import { llamaConfigSchema } from "./llama.ts";

const layerKinds = z.enum(["sliding_attention", "full_attention"]);

const schema = llamaConfigSchema.extend({
  model_type: z.enum(["gemma2", "gemma3_text"]),
  head_dim: size.default(256),
  hidden_act: z.enum(activationNames).optional(),
  hidden_activation: z.enum(activationNames).nullish(),
  query_pre_attn_scalar: z.number().positive().default(256),
  sliding_window: size.default(4096),
  /** Older files of Gemma 3: every how many layers one sees everything. */
  sliding_window_pattern: size.optional(),
  layer_types: z.array(layerKinds).nullish(),
  attn_logit_softcapping: z.number().positive().nullish(),
  final_logit_softcapping: z.number().positive().nullish(),
  tie_word_embeddings: z.boolean().default(true),
  use_bidirectional_attention: z.literal(false).nullish(),
  rope_theta: z.number().positive().optional(),
  /** Of the layers with a window, in older files of Gemma 3. */
  rope_local_base_freq: z.number().positive().default(10000),
  rope_parameters: z.union([z.partialRecord(layerKinds, ropeParametersSchema), ropeParametersSchema]).nullish(),
});

type GemmaConfig = z.output<typeof schema> & { rope_theta: number };

/** What is meant where a file says nothing; caps that it says are null are none. */
const defaults = {
  gemma2: { rope_theta: 1e4, attn_logit_softcapping: 50, final_logit_softcapping: 30 },
  gemma3_text: { rope_theta: 1e6 },
};

function readConfig(json: unknown, file: string): GemmaConfig {
  const parsed = parseConfig(schema, json, file);
  const config = { ...defaults[parsed.model_type], ...parsed };
  checkHeads(config, file);
  if (config.layer_types && config.layer_types.length !== config.num_hidden_layers)
    throw badConfig(file, [`"layer_types" names ${config.layer_types.length} layers, "num_hidden_layers" is ${config.num_hidden_layers}`]);
  for (const kind of layerKinds.options) withRope(ropeConfig(config), file, ropeOf(config, kind));
  return config;
}

const ropeConfig = (config: GemmaConfig) => z.looseObject(ropeFields).parse({ ...config, rope_parameters: undefined });

/** Each kind of layer may have a rotary embedding of its own. */
function ropeOf(config: GemmaConfig, kind: z.output<typeof layerKinds>): RopeParameters {
  const parameters = config.rope_parameters as Partial<Record<string, RopeParameters>> | null | undefined;
  const own = parameters?.[kind];
  const local = kind === "sliding_attention" && config.model_type === "gemma3_text";
  const rope_theta = local ? config.rope_local_base_freq : config.rope_theta;
  if (own) return { rope_theta, ...own };
  if (local && !parameters) return { rope_theta };
  return { rope_theta, ...config.rope_scaling, ...(parameters as RopeParameters | undefined) };
}

function kindOf(config: GemmaConfig, layer: number): z.output<typeof layerKinds> {
  const pattern = config.sliding_window_pattern ?? (config.model_type === "gemma2" ? 2 : 6);
  return config.layer_types?.[layer] ?? ((layer + 1) % pattern === 0 ? "full_attention" : "sliding_attention");
}

class GemmaDecoderLayer extends Module {
  readonly self_attn: GroupedQueryAttention;
  readonly mlp: GatedMLP;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;
  readonly pre_feedforward_layernorm: RMSNorm;
  readonly post_feedforward_layernorm: RMSNorm;

  constructor(config: GemmaConfig, layer: number, rotary: Rotary, init: Initializer) {
    super();
    const { hidden_size: hidden } = config;
    const norm = (over: number) => new RMSNorm(over, config.rms_norm_eps, { unitOffset: true });
    this.self_attn = new GroupedQueryAttention({
      hidden,
      heads: config.num_attention_heads,
      kvHeads: config.num_key_value_heads,
      width: config.head_dim,
      bias: config.attention_bias,
      scale: config.query_pre_attn_scalar ** -0.5,
      softcap: config.attn_logit_softcapping ?? undefined,
      window: kindOf(config, layer) === "sliding_attention" ? config.sliding_window : undefined,
      ...(config.model_type === "gemma3_text" && { norm }),
      rotary,
      init,
    });
    const activation = config.hidden_activation ?? config.hidden_act ?? "gelu_pytorch_tanh";
    this.mlp = new GatedMLP(hidden, config.intermediate_size, { activation, init });
    this.input_layernorm = norm(hidden);
    this.post_attention_layernorm = norm(hidden);
    this.pre_feedforward_layernorm = norm(hidden);
    this.post_feedforward_layernorm = norm(hidden);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { y, present } = this.self_attn.forward(this.input_layernorm.forward(x), context, past);
    const attended = add(x, this.post_attention_layernorm.forward(y));
    const fed = this.mlp.forward(this.pre_feedforward_layernorm.forward(attended));
    return { y: add(attended, this.post_feedforward_layernorm.forward(fed)), present };
  }
}

class GemmaModel extends DecoderModel {
  readonly embed_tokens: Embedding;
  readonly layers: GemmaDecoderLayer[];
  readonly norm: RMSNorm;

  constructor(config: GemmaConfig, init: Initializer) {
    super();
    // The head, which is the same table, is not scaled.
    this.embed_tokens = new Embedding(config.vocab_size, config.hidden_size, { init, scale: Math.sqrt(config.hidden_size) });
    const rotary = (kind: z.output<typeof layerKinds>) => rotaryOf(ropeConfig(config), config.head_dim, ropeOf(config, kind));
    const rotaries = { sliding_attention: rotary("sliding_attention"), full_attention: rotary("full_attention") };
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new GemmaDecoderLayer(config, i, rotaries[kindOf(config, i)], init),
    );
    this.norm = new RMSNorm(config.hidden_size, config.rms_norm_eps, { unitOffset: true });
  }

  get embedding(): Embedding {
    return this.embed_tokens;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    const { hidden, present } = runLayers(this.layers, this.embed(inputs), inputs);
    return { hidden: this.norm.forward(hidden), present };
  }
}

export const gemma = decoderFamily<GemmaConfig>({
  name: ({ model_type }) => (model_type === "gemma2" ? "Gemma2" : "Gemma3"),
  // Gemma3ForSequenceClassification sees images.
  className: ({ model_type }, task) =>
    model_type === "gemma3_text" && task === "ForSequenceClassification" ? "Gemma3TextForSequenceClassification" : undefined,
  models: "Gemma 2, Gemma 3 (text)",
  modelTypes: ["gemma2", "gemma3_text"],
  prefix: "model",
  readConfig,
  decoder: (config, init) => new GemmaModel(config, init),
  deviation: (config) => config.initializer_range,
  contextLength: (config) => config.max_position_embeddings,
  tied: (config) => config.tie_word_embeddings,
  softcap: (config) => config.final_logit_softcapping ?? undefined,
});
