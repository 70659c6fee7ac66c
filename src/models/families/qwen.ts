/**
 * Qwen2 and Qwen2.5 (Qwen Team, "Qwen2 Technical Report"), Qwen3 ("Qwen3 Technical Report"): Llama's blocks, and
 * - Qwen2: biases on the query, key and value projections, none on the output
 * - Qwen3: queries and keys are normalised head by head, biases only where `attention_bias` asks for them
 * - heads of a width of their own (`head_dim`)
 * - a sliding window in the layers that `layer_types` names, or from `max_window_layers` on, all where `use_sliding_window` is set
 */
import { z } from "zod";
import { GatedMLP, GroupedQueryAttention, type Initializer, RMSNorm } from "../../nn/index.ts";
import { decoderFamily } from "../decoder-family.ts";
import { PreNormDecoder } from "../pre-norm-decoder.ts";
import { checkHeads, parseConfig, size } from "../read-config.ts";
import { ropeContext, rotaryOf, withRope } from "../rope.ts";
import { llamaConfigSchema } from "./llama.ts";

const schema = llamaConfigSchema.extend({
  model_type: z.enum(["qwen2", "qwen3"]),
  use_sliding_window: z.boolean().default(false),
  sliding_window: size.nullable().default(4096),
  max_window_layers: z.int().nonnegative().default(28),
  layer_types: z.array(z.string()).nullish(),
});

type QwenConfig = z.output<typeof schema>;

function readConfig(json: unknown, file: string): QwenConfig {
  const config = withRope(parseConfig(schema, json, file), file);
  checkHeads(config, file);
  return config;
}

function windowOf(config: QwenConfig, layer: number): number | undefined {
  const { use_sliding_window: used, sliding_window: window, max_window_layers: full, layer_types: types } = config;
  const slides = used && (types ? types[layer] === "sliding_attention" : layer >= full);
  return slides ? (window ?? undefined) : undefined;
}

function decoder(config: QwenConfig, init: Initializer): PreNormDecoder {
  const { hidden_size: hidden, num_attention_heads: heads, rms_norm_eps: epsilon } = config;
  const width = config.head_dim ?? hidden / heads;
  const qwen3 = config.model_type === "qwen3";
  const rotary = rotaryOf(config, width);
  return new PreNormDecoder({
    vocabulary: config.vocab_size,
    hidden,
    layers: config.num_hidden_layers,
    epsilon,
    init,
    attention: (layer) =>
      new GroupedQueryAttention({
        hidden,
        heads,
        kvHeads: config.num_key_value_heads,
        width,
        bias: qwen3 ? config.attention_bias : true,
        outputBias: qwen3 && config.attention_bias,
        ...(qwen3 && { norm: (over: number) => new RMSNorm(over, epsilon) }),
        window: windowOf(config, layer),
        rotary,
        init,
      }),
    feedForward: () => new GatedMLP(hidden, config.intermediate_size, { activation: config.hidden_act, init }),
  });
}

export const qwen = decoderFamily<QwenConfig>({
  name: ({ model_type }) => (model_type === "qwen3" ? "Qwen3" : "Qwen2"),
  models: "Qwen2, Qwen2.5, Qwen3",
  modelTypes: ["qwen2", "qwen3"],
  prefix: "model",
  readConfig,
  decoder,
  deviation: (config) => config.initializer_range,
  contextLength: ropeContext,
  tied: (config) => config.tie_word_embeddings,
});
