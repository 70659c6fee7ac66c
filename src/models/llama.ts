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
import { Random } from "../graph/index.ts";
import { activationNames, GatedMLP, GroupedQueryAttention, type Initializer, Linear, normal } from "../nn/index.ts";
import { CausalLM, DecoderClassifier } from "./causal-lm.ts";
import { defineFamily } from "./family.ts";
import { PreNormDecoder } from "./pre-norm-decoder.ts";
import { checkHeads, parseConfig } from "./read-config.ts";
import { ropeFields, rotaryOf, withRope } from "./rope.ts";

export const llamaConfigSchema = z.looseObject({
  model_type: z.string().default("llama"),
  vocab_size: z.int().positive(),
  hidden_size: z.int().positive(),
  intermediate_size: z.int().positive(),
  num_hidden_layers: z.int().positive(),
  num_attention_heads: z.int().positive(),
  num_key_value_heads: z.int().positive().optional(),
  head_dim: z.int().positive().nullish(),
  rms_norm_eps: z.number().positive().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  initializer_range: z.number().positive().default(0.02),
  hidden_act: z.enum(activationNames).default("silu"),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  /** Read for Mistral only. */
  sliding_window: z.int().positive().nullish(),
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
  return config;
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

const named = ({ model_type }: LlamaConfig, task: string): string => `${model_type === "mistral" ? "Mistral" : "Llama"}For${task}`;

/** Llama with a language-model head. */
export class LlamaForCausalLM extends CausalLM {
  readonly architecture: string;
  readonly config: LlamaConfig;
  readonly model: LlamaModel;
  /** Absent when the embedding serves as the head. */
  readonly lm_head: Linear | undefined;

  constructor(config: LlamaConfig, seed = 0) {
    super();
    this.architecture = named(config, "CausalLM");
    this.config = config;
    const init = normal(new Random(seed), config.initializer_range);
    this.model = new LlamaModel(config, init);
    this.lm_head = config.tie_word_embeddings ? undefined : new Linear(config.hidden_size, config.vocab_size, { init });
    this.assignNames();
  }

  get contextLength(): number {
    return this.config.max_position_embeddings;
  }

  get decoder(): LlamaModel {
    return this.model;
  }

  get head(): Linear | undefined {
    return this.lm_head;
  }
}

/** Llama with a classification head. */
export class LlamaForSequenceClassification extends DecoderClassifier {
  readonly architecture: string;
  readonly config: LlamaConfig;
  readonly model: LlamaModel;
  readonly score: Linear;

  constructor(config: LlamaConfig, labelCount: number, seed = 0) {
    super();
    this.architecture = named(config, "SequenceClassification");
    this.config = config;
    const init = normal(new Random(seed), config.initializer_range);
    this.model = new LlamaModel(config, init);
    this.score = new Linear(config.hidden_size, labelCount, { init });
    this.assignNames();
  }

  get contextLength(): number {
    return this.config.max_position_embeddings;
  }

  get decoder(): LlamaModel {
    return this.model;
  }
}

export const llama = defineFamily({
  name: "Llama",
  models: "Llama, SmolLM, SmolLM2, TinyLlama, Mistral",
  modelTypes: ["llama", "mistral"],
  prefix: "model",
  readConfig: readLlamaConfig,
  causalLM: (config, seed) => new LlamaForCausalLM(config, seed),
  sequenceClassifier: (config, labels, seed) => new LlamaForSequenceClassification(config, labels, seed),
});
