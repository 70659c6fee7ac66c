/**
 * Phi-3 (Abdin et al., "Phi-3 Technical Report"): Llama's blocks with fused projections:
 * - `qkv_proj` makes queries, keys and values, `gate_up_proj` gate and up, each in this order
 * - a sliding window in every layer where `sliding_window` is set
 * - long-context checkpoints stretch the rotary embedding ("longrope"), see `rope.ts`
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  attend,
  type DecoderContext,
  gated,
  type Initializer,
  joinHeads,
  type KeyValues,
  type Layer,
  Linear,
  Module,
  type Rotary,
  splitHeads,
} from "../../nn/index.ts";
import { split } from "../../ops/index.ts";
import { decoderFamily } from "../decoder-family.ts";
import { PreNormDecoder } from "../pre-norm-decoder.ts";
import { checkHeads, parseConfig } from "../read-config.ts";
import { ropeContext, rotaryOf, withRope } from "../rope.ts";
import { llamaConfigSchema } from "./llama.ts";

const schema = llamaConfigSchema.extend({ model_type: z.literal("phi3"), rms_norm_eps: z.number().positive().default(1e-5) });

type Phi3Config = z.output<typeof schema>;

function readConfig(json: unknown, file: string): Phi3Config {
  const config = withRope(parseConfig(schema, json, file), file);
  checkHeads(config, file);
  return config;
}

class Phi3Attention extends Module {
  readonly qkv_proj: Layer;
  readonly o_proj: Layer;
  readonly #heads: number;
  readonly #kvHeads: number;
  readonly #width: number;
  readonly #window: number | undefined;
  readonly #rotary: Rotary;

  constructor(config: Phi3Config, rotary: Rotary, init: Initializer) {
    super();
    const { hidden_size: hidden } = config;
    this.#heads = config.num_attention_heads;
    this.#kvHeads = config.num_key_value_heads ?? this.#heads;
    this.#width = config.head_dim ?? hidden / this.#heads;
    this.#window = config.sliding_window ?? undefined;
    this.#rotary = rotary;
    this.qkv_proj = new Linear(hidden, (this.#heads + 2 * this.#kvHeads) * this.#width, { init });
    this.o_proj = new Linear(this.#heads * this.#width, hidden, { init });
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const [queries, keys] = [this.#heads * this.#width, this.#kvHeads * this.#width];
    const [q, k, v] = split(this.qkv_proj.forward(x), [queries, keys, keys]) as [Tensor, Tensor, Tensor];
    const rotated = (t: Tensor, heads: number) => this.#rotary.apply(splitHeads(t, heads), context.positions);
    const present = { key: rotated(k, this.#kvHeads), value: splitHeads(v, this.#kvHeads) };
    const mixed = attend(rotated(q, this.#heads), present, past, context, { window: this.#window });
    return { y: this.o_proj.forward(joinHeads(mixed)), present };
  }
}

class Phi3MLP extends Module {
  readonly gate_up_proj: Layer;
  readonly down_proj: Layer;
  readonly #activation: Phi3Config["hidden_act"];

  constructor(config: Phi3Config, init: Initializer) {
    super();
    this.#activation = config.hidden_act;
    this.gate_up_proj = new Linear(config.hidden_size, 2 * config.intermediate_size, { init });
    this.down_proj = new Linear(config.intermediate_size, config.hidden_size, { init });
  }

  forward(x: Tensor): Tensor {
    const [gate, up] = split(this.gate_up_proj.forward(x), 2) as [Tensor, Tensor];
    return this.down_proj.forward(gated(this.#activation, gate, up));
  }
}

function decoder(config: Phi3Config, init: Initializer): PreNormDecoder {
  const rotary = rotaryOf(config, config.head_dim ?? config.hidden_size / config.num_attention_heads);
  return new PreNormDecoder({
    vocabulary: config.vocab_size,
    hidden: config.hidden_size,
    layers: config.num_hidden_layers,
    epsilon: config.rms_norm_eps,
    init,
    attention: () => new Phi3Attention(config, rotary, init),
    feedForward: () => new Phi3MLP(config, init),
  });
}

export const phi3 = decoderFamily<Phi3Config>({
  name: "Phi3",
  models: "Phi-3, Phi-3.5 mini, Phi-4 mini",
  modelTypes: ["phi3"],
  prefix: "model",
  readConfig,
  decoder,
  deviation: (config) => config.initializer_range,
  contextLength: ropeContext,
  tied: (config) => config.tie_word_embeddings,
});
