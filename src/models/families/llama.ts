/**
 * The Llama family (Touvron et al., "LLaMA: Open and Efficient Foundation Language Models"), as Llama 1–3, SmolLM, TinyLlama and sapling use it,
 * and Mistral (Jiang et al., "Mistral 7B"), which adds a sliding window:
 * - pre-normalisation with RMSNorm; biases only where `attention_bias` and `mlp_bias` ask for them
 * - rotary position embedding in the half-split layout, stretched as `rope_parameters` say
 * - grouped-query attention; Mistral's tokens see the last `sliding_window` ones
 * - SwiGLU feed-forward: down(silu(gate(x)) · up(x))
 * - output head tied to the embedding or of its own
 * Module and parameter names equal those of Hugging Face checkpoints.
 */
import { z } from "zod";
import { activationNames, GatedMLP, GroupedQueryAttention, type Initializer, type Linear } from "../../nn/index.ts";
import { type DecoderFamilyOptions, DecoderForCausalLM, DecoderForSequenceClassification, decoderFamily } from "../decoder-family.ts";
import type { Family } from "../family.ts";
import { PreNormDecoder } from "../pre-norm-decoder.ts";
import { checkHeads, layerCount, parseConfig, size } from "../read-config.ts";
import { ropeContext, ropeFields, rotaryOf, withRope } from "../rope.ts";

export const llamaConfigSchema = z.looseObject({
  model_type: z.string().default("llama"),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: layerCount,
  num_attention_heads: size,
  num_key_value_heads: size.nullish().transform((heads) => heads ?? undefined),
  head_dim: size.nullish(),
  rms_norm_eps: z.number().positive().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  initializer_range: z.number().positive().default(0.02),
  hidden_act: z.enum(activationNames).default("silu"),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  /** Read for Mistral only, whose files say null where they mean none. */
  sliding_window: size.nullish(),
  ...ropeFields,
});

/** The fields of `config.json` that the family reads, under their Hugging Face names. */
export type LlamaConfig = z.output<typeof llamaConfigSchema>;

/**
 * @param json the parsed config.json
 * @param file named in errors
 * @throws EspalierError `bad-config`, `unsupported-rope`
 */
export function readLlamaConfig(json: unknown, file: string): LlamaConfig {
  const config = withRope(parseConfig(llamaConfigSchema, json, file), file);
  checkHeads(config, file);
  const { model_type: type, sliding_window: window = type === "mistral" ? 4096 : undefined } = config;
  return { ...config, sliding_window: window };
}

export class LlamaModel extends PreNormDecoder {
  constructor(config: LlamaConfig, init: Initializer) {
    const { hidden_size: hidden, num_attention_heads: heads } = config;
    const width = config.head_dim ?? hidden / heads;
    const attention = {
      hidden,
      heads,
      kvHeads: config.num_key_value_heads,
      width,
      bias: config.attention_bias,
      window: config.model_type === "mistral" ? (config.sliding_window ?? undefined) : undefined,
      rotary: rotaryOf(config, width),
      init,
    };
    super({
      vocabulary: config.vocab_size,
      hidden,
      layers: config.num_hidden_layers,
      epsilon: config.rms_norm_eps,
      init,
      attention: () => new GroupedQueryAttention(attention),
      feedForward: () => new GatedMLP(hidden, config.intermediate_size, { activation: config.hidden_act, bias: config.mlp_bias, init }),
    });
  }
}

const options: DecoderFamilyOptions<LlamaConfig> = {
  name: ({ model_type }) => (model_type === "mistral" ? "Mistral" : "Llama"),
  models: "Llama, SmolLM, SmolLM2, TinyLlama, Mistral",
  modelTypes: ["llama", "mistral"],
  prefix: "model",
  readConfig: readLlamaConfig,
  decoder: (config, init) => new LlamaModel(config, init),
  deviation: (config) => config.initializer_range,
  contextLength: ropeContext,
  tied: (config) => config.tie_word_embeddings,
};

/** Llama with a language-model head. */
export class LlamaForCausalLM extends DecoderForCausalLM<LlamaConfig> {
  declare readonly model: LlamaModel;
  /** Absent when the embedding serves as the head. */
  declare readonly lm_head: Linear | undefined;

  constructor(config: LlamaConfig, seed?: number) {
    super(options, config, seed);
  }
}

/** Llama with a classification head. */
export class LlamaForSequenceClassification extends DecoderForSequenceClassification<LlamaConfig> {
  declare readonly model: LlamaModel;
  declare readonly score: Linear;

  constructor(config: LlamaConfig, labels: number, seed?: number) {
    super(options, config, labels, seed);
  }
}

export const llama: Family<LlamaConfig> = {
  ...decoderFamily(options),
  causalLM: (config, seed) => new LlamaForCausalLM(config, seed),
  sequenceClassifier: (config, labels, seed) => new LlamaForSequenceClassification(config, labels, seed),
};
