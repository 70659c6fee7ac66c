/**
 * OLMo 2 (OLMo Team, "2 OLMo 2 Furious"): Llama's attention and feed-forward, and
 * - RMSNorm after attention and after the feed-forward, before each is added to the residual; none before
 * - queries and keys are normalised across all heads
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
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
import { checkHeads, parseConfig } from "../read-config.ts";
import { ropeContext, rotaryOf, withRope } from "../rope.ts";
import { llamaConfigSchema } from "./llama.ts";

const schema = llamaConfigSchema.extend({ model_type: z.literal("olmo2"), rms_norm_eps: z.number().positive().default(1e-5) });

type Olmo2Config = z.output<typeof schema>;

function readConfig(json: unknown, file: string): Olmo2Config {
  const config = withRope(parseConfig(schema, json, file), file);
  checkHeads(config, file);
  return config;
}

class Olmo2DecoderLayer extends Module {
  readonly self_attn: GroupedQueryAttention;
  readonly mlp: GatedMLP;
  readonly post_attention_layernorm: RMSNorm;
  readonly post_feedforward_layernorm: RMSNorm;

  constructor(config: Olmo2Config, rotary: Rotary, init: Initializer) {
    super();
    const { hidden_size: hidden, rms_norm_eps: epsilon } = config;
    this.self_attn = new GroupedQueryAttention({
      hidden,
      heads: config.num_attention_heads,
      kvHeads: config.num_key_value_heads,
      bias: config.attention_bias,
      norm: (over) => new RMSNorm(over, epsilon),
      normOver: "all",
      rotary,
      init,
    });
    this.mlp = new GatedMLP(hidden, config.intermediate_size, { activation: config.hidden_act, init });
    this.post_attention_layernorm = new RMSNorm(hidden, epsilon);
    this.post_feedforward_layernorm = new RMSNorm(hidden, epsilon);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { y, present } = this.self_attn.forward(x, context, past);
    const attended = add(x, this.post_attention_layernorm.forward(y));
    return { y: add(attended, this.post_feedforward_layernorm.forward(this.mlp.forward(attended))), present };
  }
}

class Olmo2Model extends DecoderModel {
  readonly embed_tokens: Embedding;
  readonly layers: Olmo2DecoderLayer[];
  readonly norm: RMSNorm;

  constructor(config: Olmo2Config, init: Initializer) {
    super();
    this.embed_tokens = new Embedding(config.vocab_size, config.hidden_size, { init });
    const rotary = rotaryOf(config, config.hidden_size / config.num_attention_heads);
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new Olmo2DecoderLayer(config, rotary, init));
    this.norm = new RMSNorm(config.hidden_size, config.rms_norm_eps);
  }

  get embedding(): Embedding {
    return this.embed_tokens;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    const { hidden, present } = runLayers(this.layers, this.embed(inputs), inputs);
    return { hidden: this.norm.forward(hidden), present };
  }
}

export const olmo2 = decoderFamily<Olmo2Config>({
  name: "Olmo2",
  models: "OLMo 2",
  modelTypes: ["olmo2"],
  prefix: "model",
  readConfig,
  decoder: (config, init) => new Olmo2Model(config, init),
  deviation: (config) => config.initializer_range,
  contextLength: ropeContext,
  tied: (config) => config.tie_word_embeddings,
});
