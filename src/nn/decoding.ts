import { type Dim, EspalierError, type Tensor } from "../graph/index.ts";
import {
  type AttentionOptions,
  add,
  attentionOver,
  causalAttention,
  concat,
  expand,
  greater,
  hiddenScore,
  type KeyValues,
  lessOrEqual,
  logicalAnd,
  range,
  reshape,
  sub,
  transpose,
  unsqueeze,
  where,
} from "../ops/index.ts";

import type { Module } from "./module.ts";

export type { KeyValues } from "../ops/index.ts";

/** What a decoder reads. Without `visible`, tokens see themselves and those before; that is the fast way, and the one to train with. */
export interface DecoderInputs {
  /** int64 [batch, time]; or `embeddings`. */
  ids?: Tensor | undefined;
  /** [batch, time, hidden], in place of `ids`. */
  embeddings?: Tensor | undefined;
  /** int64 [batch, time]: each token's place in its sequence, padding not counted. Default 0, 1, 2, … */
  positions?: Tensor | undefined;
  /** int64 [batch, keys]: the places of all tokens that can be seen: those of `past`, then these. Default: `positions`. Needed with `past`. */
  keyPositions?: Tensor | undefined;
  /** bool, broadcasts against [batch, heads, time, keys]: which tokens each token may see. Needed with `past`. */
  visible?: Tensor | undefined;
  /** One entry per layer: keys and values of earlier tokens. Places that hold none yet are for `visible` to hide. */
  past?: readonly KeyValues[] | undefined;
  /**
   * Whether attention reads `past` and the tokens' own keys and values as one tensor ({@link joinKeyValues}), which is a copy of both. It pays where
   * that tensor is wanted anyway. Default: it reads the two one after the other and joins the scores.
   */
  joinPast?: boolean | undefined;
}

export interface DecoderOutputs {
  /** [batch, time, hidden], after the last norm. */
  hidden: Tensor;
  /** One entry per layer: keys and values of these tokens, without those of `past`. */
  present: readonly KeyValues[];
}

/** What the layers of one forward pass share: where the tokens stand and what each may look at. */
export class DecoderContext {
  /** int64 [batch, time]. */
  readonly positions: Tensor;
  /** int64 [batch, keys]. */
  readonly keyPositions: Tensor;
  readonly visible: Tensor | undefined;
  readonly joinPast: boolean;
  readonly #masks = new Map<number | undefined, Tensor | undefined>();

  /** @param hidden the embedded tokens, [batch, time, …] */
  constructor(inputs: DecoderInputs, hidden: Tensor) {
    const [batch, time] = hidden.shape as [Dim, Dim];
    if (inputs.past && !(inputs.visible && inputs.keyPositions))
      throw new EspalierError(
        "missing-mask",
        "A forward pass with `past` needs `visible`, which says which of the past places hold a token, and their `keyPositions`.",
      );
    this.positions = inputs.positions ?? expand(unsqueeze(range(time), 0), [batch, time]);
    this.keyPositions = inputs.keyPositions ?? this.positions;
    this.visible = inputs.visible;
    this.joinPast = inputs.joinPast ?? false;
  }

  /**
   * Added to the scores, broadcasts against [batch, heads, time, keys]; undefined where plain causal attention says it all.
   * @param window tokens that a token sees at most, itself included; default: all before it
   */
  mask(window?: number): Tensor | undefined {
    if (!this.#masks.has(window)) this.#masks.set(window, this.#mask(window));
    return this.#masks.get(window);
  }

  /** The mask, also where causal attention would do without. */
  explicitMask(window?: number): Tensor {
    return this.mask(window) ?? where(this.#visible(), 0, hiddenScore);
  }

  #mask(window: number | undefined): Tensor | undefined {
    const time = this.positions.shape[1]!;
    if (!this.visible && (window === undefined || (typeof time === "number" && time <= window))) return undefined;
    if (window === undefined) return where(this.#visible(), 0, hiddenScore);
    const distance = sub(unsqueeze(this.positions, 2), unsqueeze(this.keyPositions, 1));
    const near = unsqueeze(greater(window, distance), 1);
    return where(logicalAnd(this.#visible(), near), 0, hiddenScore);
  }

  #visible(): Tensor {
    if (this.visible) return this.visible;
    const time = this.positions.shape[1]!;
    return lessOrEqual(range(time), unsqueeze(range(time), 1));
  }
}

export interface AttendOptions extends Omit<AttentionOptions, "mask"> {
  /** Tokens that a token sees at most, itself included. */
  window?: number | undefined;
  /** Added to the scores beside the mask, as a bias by distance; broadcasts against [batch, heads, time, keys]. */
  bias?: Tensor | undefined;
}

/** Attention of a decoder's layer over `past` and the tokens themselves: q [batch, heads, time, width] → the same. */
export function attend(
  q: Tensor,
  present: KeyValues,
  past: KeyValues | undefined,
  context: DecoderContext,
  options: AttendOptions = {},
): Tensor {
  const { window, bias, ...rest } = options;
  const mask = bias ? add(context.explicitMask(window), bias) : context.mask(window);
  if (!mask) return causalAttention(q, present.key, present.value, rest);
  const sources = past ? (context.joinPast ? [joinKeyValues(past, present)] : [past, present]) : [present];
  return attentionOver(q, sources, { ...rest, mask });
}

const joined = new WeakMap<KeyValues, KeyValues>();

/** Keys and values of earlier tokens and of these, along time. The same tensors for the same `present` at every call. */
export function joinKeyValues(past: KeyValues, present: KeyValues): KeyValues {
  const known = joined.get(present);
  if (known) return known;
  const both = { key: concat([past.key, present.key], 2), value: concat([past.value, present.value], 2) };
  joined.set(present, both);
  return both;
}

/** [batch, time, heads·width] → [batch, heads, time, width]. */
export function splitHeads(x: Tensor, heads: number): Tensor {
  const [batch, time, all] = x.shape as [Dim, Dim, number];
  const width = all / heads;
  // With one token, as in each step of decoding, exchanging time and heads moves nothing.
  return time === 1 ? reshape(x, [batch, heads, 1, width]) : transpose(reshape(x, [batch, time, heads, width]), [0, 2, 1, 3]);
}

/** [batch, heads, time, width] → [batch, time, heads·width]. */
export function joinHeads(x: Tensor): Tensor {
  const [batch, heads, time, width] = x.shape as [Dim, number, Dim, number];
  return reshape(time === 1 ? x : transpose(x, [0, 2, 1, 3]), [batch, time, heads * width]);
}

/** A layer of a decoder: x [batch, time, hidden] → the same, and the keys and values of these tokens. */
export type DecoderLayer = Module & {
  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues };
};

/** Sends embedded tokens [batch, time, hidden] through the layers, each with its own part of `past`. */
export function runLayers(
  layers: readonly DecoderLayer[],
  embedded: Tensor,
  inputs: DecoderInputs,
  context = new DecoderContext(inputs, embedded),
): DecoderOutputs {
  let hidden = embedded;
  const present: KeyValues[] = [];
  for (const [i, layer] of layers.entries()) {
    const out = layer.forward(hidden, context, inputs.past?.[i]);
    hidden = out.y;
    present.push(out.present);
  }
  return { hidden, present };
}
