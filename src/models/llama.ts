/**
 * The Llama family (Touvron et al., "LLaMA: Open and Efficient Foundation Language Models"), as Llama, SmolLM, TinyLlama and sapling use it:
 * - pre-normalisation with RMSNorm; biases only where `attention_bias` and `mlp_bias` ask for them
 * - rotary position embedding in the half-split layout
 * - grouped-query attention
 * - SwiGLU feed-forward: down(silu(gate(x)) · up(x))
 * - output head tied to the embedding or of its own
 * Module and parameter names equal those of Hugging Face checkpoints.
 */
import { z } from "zod";
import { atPath, type Dim, EspalierError, mulDims, Random, read, type Tensor, Variable } from "../graph/index.ts";
import { Embedding, floats, type Initializer, type Layer, Linear, Module, normal, RMSNorm } from "../nn/index.ts";
import {
  add,
  attention,
  causalAttention,
  dimension,
  expand,
  gather,
  linear,
  mul,
  range,
  reshape,
  rotary,
  silu,
  sub,
  transpose,
  unsqueeze,
} from "../ops/index.ts";
import { cachedAttention, type KeyValues } from "./cached-attention.ts";

export type { KeyValues } from "./cached-attention.ts";

export const llamaConfigSchema = z.looseObject({
  model_type: z.string().default("llama"),
  vocab_size: z.int().positive(),
  hidden_size: z.int().positive(),
  intermediate_size: z.int().positive(),
  num_hidden_layers: z.int().positive(),
  num_attention_heads: z.int().positive(),
  num_key_value_heads: z.int().positive().optional(),
  head_dim: z.int().positive().nullish(),
  max_position_embeddings: z.int().positive().default(2048),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().default(10000),
  tie_word_embeddings: z.boolean().default(false),
  initializer_range: z.number().positive().default(0.02),
  hidden_act: z.literal("silu").default("silu"),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
});

/** The fields of `config.json` that the family reads, under their Hugging Face names. */
export type LlamaConfig = z.output<typeof llamaConfigSchema>;

/** What every attention layer of one forward pass shares. */
export interface AttentionContext {
  /** int64 [batch, time]: each token's place in its sequence. */
  positions: Tensor;
  cos: Tensor;
  sin: Tensor;
  /** Added to the scores; broadcasts against [batch, heads, time, keys]. */
  mask?: Tensor;
}

export class LlamaAttention extends Module {
  readonly q_proj: Layer;
  readonly k_proj: Layer;
  readonly v_proj: Layer;
  readonly o_proj: Layer;
  readonly #heads: number;
  readonly #kvHeads: number;
  readonly #width: number;

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    this.#heads = config.num_attention_heads;
    this.#kvHeads = config.num_key_value_heads ?? config.num_attention_heads;
    this.#width = config.head_dim ?? config.hidden_size / config.num_attention_heads;
    const { hidden_size: hidden, attention_bias: bias } = config;
    this.q_proj = new Linear(hidden, this.#heads * this.#width, { init, bias });
    this.k_proj = new Linear(hidden, this.#kvHeads * this.#width, { init, bias });
    this.v_proj = new Linear(hidden, this.#kvHeads * this.#width, { init, bias });
    this.o_proj = new Linear(this.#heads * this.#width, hidden, { init, bias });
  }

  /** x [batch, time, hidden] → the same; `past` holds the keys and values of earlier tokens, and `present` those of the tokens in `x`. */
  forward(x: Tensor, context: AttentionContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const [batch, time] = x.shape as [Dim, Dim];
    // With one token, as in each step of decoding, exchanging time and heads moves nothing.
    const heads = (t: Tensor, count: number) =>
      time === 1 ? reshape(t, [batch, count, 1, this.#width]) : transpose(reshape(t, [batch, time, count, this.#width]), [0, 2, 1, 3]);
    const { cos, sin, positions } = context;
    const q = rotary(heads(this.q_proj.forward(x), this.#heads), cos, sin, positions);
    const k = rotary(heads(this.k_proj.forward(x), this.#kvHeads), cos, sin, positions);
    const v = heads(this.v_proj.forward(x), this.#kvHeads);
    const present = { key: k, value: v };
    const { mask } = context;
    const mixed = past && mask ? cachedAttention(q, past, present, mask) : mask ? attention(q, k, v, { mask }) : causalAttention(q, k, v);
    const joined = reshape(time === 1 ? mixed : transpose(mixed, [0, 2, 1, 3]), [batch, time, this.#heads * this.#width]);
    return { y: this.o_proj.forward(joined), present };
  }
}

export class LlamaMLP extends Module {
  readonly gate_proj: Layer;
  readonly up_proj: Layer;
  readonly down_proj: Layer;

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    const { hidden_size: hidden, intermediate_size: inner, mlp_bias: bias } = config;
    this.gate_proj = new Linear(hidden, inner, { init, bias });
    this.up_proj = new Linear(hidden, inner, { init, bias });
    this.down_proj = new Linear(inner, hidden, { init, bias });
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(mul(silu(this.gate_proj.forward(x)), this.up_proj.forward(x)));
  }
}

export class LlamaDecoderLayer extends Module {
  readonly self_attn: LlamaAttention;
  readonly mlp: LlamaMLP;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    this.self_attn = new LlamaAttention(config, init);
    this.mlp = new LlamaMLP(config, init);
    this.input_layernorm = new RMSNorm(config.hidden_size, config.rms_norm_eps);
    this.post_attention_layernorm = new RMSNorm(config.hidden_size, config.rms_norm_eps);
  }

  forward(x: Tensor, context: AttentionContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { y, present } = this.self_attn.forward(this.input_layernorm.forward(x), context, past);
    const attended = add(x, y);
    return { y: add(attended, this.mlp.forward(this.post_attention_layernorm.forward(attended))), present };
  }
}

export interface LlamaInputs {
  /** int64 [batch, time]. */
  ids: Tensor;
  /** int64 [batch, time]; default 0, 1, 2, … */
  positions?: Tensor;
  /** Added to the attention scores, broadcasts against [batch, heads, time, past + time]; default causal. Needed when `past` is given. */
  mask?: Tensor;
  /** One entry per layer: keys and values of earlier tokens. Places that hold none yet are the mask's to hide. */
  past?: readonly KeyValues[];
}

export interface LlamaOutputs {
  /** [batch, time, hidden], after the last norm. */
  hidden: Tensor;
  /** One entry per layer: keys and values of these tokens, without those of `past`. */
  present: readonly KeyValues[];
}

export class LlamaModel extends Module {
  readonly embed_tokens: Embedding;
  readonly layers: LlamaDecoderLayer[];
  readonly norm: RMSNorm;
  readonly #rotary: { cos: Variable; sin: Variable };

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    this.embed_tokens = new Embedding(config.vocab_size, config.hidden_size, { init });
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new LlamaDecoderLayer(config, init));
    this.norm = new RMSNorm(config.hidden_size, config.rms_norm_eps);
    this.#rotary = rotaryTables(config);
  }

  forward(inputs: LlamaInputs): LlamaOutputs {
    const { ids, past } = inputs;
    const [batch, time] = ids.shape as [Dim, Dim];
    const positions = inputs.positions ?? expand(unsqueeze(range(time), 0), [batch, time]);
    if (past && !inputs.mask)
      throw new EspalierError("missing-mask", "A forward pass with `past` needs a mask that says which of the past places hold a token.");
    const { mask } = inputs;
    const context: AttentionContext = { positions, mask, cos: read(this.#rotary.cos), sin: read(this.#rotary.sin) };
    let hidden = this.embed_tokens.forward(ids);
    const present: KeyValues[] = [];
    for (const [i, layer] of this.layers.entries()) {
      const out = layer.forward(hidden, context, past?.[i]);
      hidden = out.y;
      present.push(out.present);
    }
    return { hidden: this.norm.forward(hidden), present };
  }
}

/** cos and sin of every position and frequency, [positions, headDim/2]. */
function rotaryTables(config: LlamaConfig): { cos: Variable; sin: Variable } {
  const half = (config.head_dim ?? config.hidden_size / config.num_attention_heads) / 2;
  const shape = [config.max_position_embeddings, half];
  // A power per frequency, not per element: this is on the way of every model's opening.
  const frequencies = Array.from({ length: half }, (_, i) => config.rope_theta ** (-i / half));
  const table = (name: string, f: (angle: number) => number) =>
    new Variable(
      name,
      { dtype: "float32", shape },
      () => {
        const values = new Float32Array(shape[0]! * half);
        for (let i = 0; i < values.length; i++) values[i] = f(Math.floor(i / half) * frequencies[i % half]!);
        return floats(shape, values);
      },
      { frozen: true },
    );
  return { cos: table("rotary.cos", Math.cos), sin: table("rotary.sin", Math.sin) };
}

/** Llama with a language-model head. `logits` are computed by {@link LlamaForCausalLM.logits}, so that a caller can take them of some positions only. */
export class LlamaForCausalLM extends Module {
  readonly model: LlamaModel;
  /** Absent when the embedding serves as the head. */
  readonly lm_head: Linear | undefined;
  readonly config: LlamaConfig;

  constructor(config: LlamaConfig, seed = 0) {
    super();
    this.config = config;
    const init = normal(new Random(seed), config.initializer_range);
    this.model = new LlamaModel(config, init);
    this.lm_head = config.tie_word_embeddings ? undefined : new Linear(config.hidden_size, config.vocab_size, { init });
    this.assignNames();
  }

  forward(inputs: LlamaInputs): LlamaOutputs {
    return this.model.forward(inputs);
  }

  /** hidden [..., width] → [..., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.lm_head ? this.lm_head.forward(hidden) : atPath("lm_head", () => linear(hidden, this.model.embed_tokens.weight.value));
  }
}

/** Llama with a classification head on the last token that is not padding (`LlamaForSequenceClassification`). */
export class LlamaForSequenceClassification extends Module {
  readonly model: LlamaModel;
  readonly score: Linear;
  readonly config: LlamaConfig;

  constructor(config: LlamaConfig, labelCount: number, seed = 0) {
    super();
    this.config = config;
    const init = normal(new Random(seed), config.initializer_range);
    this.model = new LlamaModel(config, init);
    this.score = new Linear(config.hidden_size, labelCount, { init });
    this.assignNames();
  }

  /** `lengths` int64 [batch]: the tokens of each right-padded row → logits [batch, labels]. */
  forward(ids: Tensor, lengths: Tensor): Tensor {
    const { hidden } = this.model.forward({ ids });
    const [batch, time, width] = hidden.shape as [Dim, Dim, Dim];
    // Padding stands on the right, where causal attention hides it from every real token.
    const rows = add(mul(range(batch), dimension(time)), sub(lengths, 1));
    return this.score.forward(gather(reshape(hidden, [mulDims(batch, time), width]), rows, 0));
  }
}
