import type { Tensor } from "../graph/index.ts";
import { type AttendOptions, attend, type DecoderContext, joinHeads, type KeyValues, splitHeads } from "./decoding.ts";
import type { Initializer } from "./initializers.ts";
import { Linear, type Norm } from "./layers.ts";
import { type Layer, Module } from "./module.ts";
import type { Rotary } from "./rotary.ts";

export interface GroupedQueryAttentionOptions extends Pick<AttendOptions, "scale" | "softcap" | "window"> {
  hidden: number;
  heads: number;
  /** Key/value heads, each shared by heads/kvHeads query heads. Default: as many as heads. */
  kvHeads?: number | undefined;
  /** Width of a head. Default hidden/heads. */
  width?: number | undefined;
  /** Biases of q, k and v. Default none. */
  bias?: boolean;
  /** Bias of the output projection. Default: as `bias`. */
  outputBias?: boolean;
  /** A norm for queries and one for keys, made for the width that it normalises. */
  norm?: (width: number) => Norm;
  /** Whether queries and keys are normalised head by head or across all heads. Default "head". */
  normOver?: "head" | "all";
  /** Absent where no position is embedded. */
  rotary?: Rotary | undefined;
  init: Initializer;
}

/**
 * Causal self-attention with grouped keys and values, as Llama and its relatives have it: `q_proj`, `k_proj`, `v_proj`, `o_proj`, and where queries
 * and keys are normalised `q_norm` and `k_norm`.
 */
export class GroupedQueryAttention extends Module {
  readonly q_proj: Layer;
  readonly k_proj: Layer;
  readonly v_proj: Layer;
  readonly o_proj: Layer;
  readonly q_norm: Norm | undefined;
  readonly k_norm: Norm | undefined;
  readonly #options: GroupedQueryAttentionOptions;
  readonly #kvHeads: number;

  constructor(options: GroupedQueryAttentionOptions) {
    super();
    const { hidden, heads, kvHeads = heads, width = hidden / heads, bias = false, outputBias = bias, init, norm, normOver } = options;
    this.#options = options;
    this.#kvHeads = kvHeads;
    this.q_proj = new Linear(hidden, heads * width, { init, bias });
    this.k_proj = new Linear(hidden, kvHeads * width, { init, bias });
    this.v_proj = new Linear(hidden, kvHeads * width, { init, bias });
    this.o_proj = new Linear(heads * width, hidden, { init, bias: outputBias });
    const all = normOver === "all";
    this.q_norm = norm?.(all ? heads * width : width);
    this.k_norm = norm?.(all ? kvHeads * width : width);
  }

  /** x [batch, time, hidden] → the same; `past` holds the keys and values of earlier tokens, and `present` those of the tokens in `x`. */
  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { heads, rotary, normOver } = this.#options;
    const rotated = (t: Tensor) => rotary?.apply(t, context.positions) ?? t;
    const projected = (t: Tensor, count: number, norm: Norm | undefined) => {
      if (normOver === "all") return rotated(splitHeads(norm ? norm.forward(t) : t, count));
      const split = splitHeads(t, count);
      return rotated(norm ? norm.forward(split) : split);
    };
    const q = projected(this.q_proj.forward(x), heads, this.q_norm);
    const key = projected(this.k_proj.forward(x), this.#kvHeads, this.k_norm);
    const present = { key, value: splitHeads(this.v_proj.forward(x), this.#kvHeads) };
    return { y: this.o_proj.forward(joinHeads(attend(q, present, past, context, this.#attendOptions()))), present };
  }

  #attendOptions(): AttendOptions {
    const { scale, softcap, window } = this.#options;
    return { scale, softcap, window };
  }
}
