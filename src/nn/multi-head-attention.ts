import type { Tensor } from "../graph/index.ts";
import { attentionOver } from "../ops/index.ts";
import { attend, type DecoderContext, joinHeads, type KeyValues, splitHeads } from "./decoding.ts";
import type { Initializer } from "./initializers.ts";
import { Linear } from "./layers.ts";
import { type Layer, Module } from "./module.ts";

/**
 * softmax(q·kᵀ/√width + mask)·v for `q`, `k` and `v` [batch, time, heads·width], without a mask over everything → [batch, queries, heads·width]
 * (Vaswani et al., "Attention Is All You Need").
 */
export const multiHeadAttention = (q: Tensor, k: Tensor, v: Tensor, heads: number, mask?: Tensor): Tensor =>
  joinHeads(attentionOver(splitHeads(q, heads), [{ key: splitHeads(k, heads), value: splitHeads(v, heads) }], { mask }));

/** Attention with `q_proj`, `k_proj`, `v_proj` and `out_proj`, as BART, CLIP, wav2vec 2.0 and Whisper have it, for one sequence or from one to another. */
export class MultiHeadAttention extends Module {
  readonly q_proj: Layer;
  readonly k_proj: Layer;
  readonly v_proj: Layer;
  readonly out_proj: Layer;
  readonly heads: number;

  /** @param options.keyBias whether keys have a bias; default yes, as the others always have */
  constructor(hidden: number, heads: number, options: { init: Initializer; keyBias?: boolean }) {
    super();
    const { init } = options;
    this.heads = heads;
    this.q_proj = new Linear(hidden, hidden, { init, bias: true });
    this.k_proj = new Linear(hidden, hidden, { init, bias: options.keyBias ?? true });
    this.v_proj = new Linear(hidden, hidden, { init, bias: true });
    this.out_proj = new Linear(hidden, hidden, { init, bias: true });
  }

  /** The keys and values of tokens that can be seen, [batch, time, hidden] → [batch, heads, time, width] each. */
  keyValues(x: Tensor): KeyValues {
    return { key: splitHeads(this.k_proj.forward(x), this.heads), value: splitHeads(this.v_proj.forward(x), this.heads) };
  }

  /**
   * x [batch, time, hidden] → the same.
   * @param seen what can be seen; by default the tokens themselves
   * @param mask added to the scores, broadcasts against [batch, heads, time, keys]; by default nothing is hidden
   */
  forward(x: Tensor, seen: readonly KeyValues[] = [this.keyValues(x)], mask?: Tensor): Tensor {
    return this.out_proj.forward(joinHeads(attentionOver(splitHeads(this.q_proj.forward(x), this.heads), seen, { mask })));
  }

  /** As a decoder: the tokens of `x` see those of `past` and, as the context says, one another. `present` are their own keys and values. */
  decode(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const present = this.keyValues(x);
    const mixed = attend(splitHeads(this.q_proj.forward(x), this.heads), present, past, context);
    return { y: this.out_proj.forward(joinHeads(mixed)), present };
  }
}
