import { type Dim, EspalierError, subDims, type Tensor } from "../graph/index.ts";
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
  slice,
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
  /**
   * int64 [batch, time], where rows hold several documents one after the other: the column in which each token's document begins. Tokens see their own
   * document only, and positions count from its beginning. In place of `positions` and `visible`, and without `past`.
   */
  documentStarts?: Tensor | undefined;
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
  readonly #documentStarts: Tensor | undefined;
  readonly #masks = new Map<string, Tensor>();

  /** @param hidden the embedded tokens, [batch, time, …] */
  constructor(inputs: DecoderInputs, hidden: Tensor) {
    const [batch, time] = hidden.shape as [Dim, Dim];
    if (inputs.past && !(inputs.visible && inputs.keyPositions))
      throw new EspalierError(
        "missing-mask",
        "A forward pass with `past` needs `visible`, which says which of the past places hold a token, and their `keyPositions`.",
      );
    const rival = inputs.documentStarts && (["past", "visible", "positions", "keyPositions"] as const).find((name) => inputs[name]);
    if (rival)
      throw new EspalierError(
        "packed-rows",
        `A forward pass over rows of several documents (\`documentStarts\`) takes no \`${rival}\`: what a token may see and where it stands follow from its document.`,
      );
    this.positions = positionsOf(inputs, batch, time);
    this.keyPositions = inputs.keyPositions ?? this.positions;
    this.visible = inputs.visible;
    this.joinPast = inputs.joinPast ?? false;
    this.#documentStarts = inputs.documentStarts;
  }

  /** Whether plain causal attention says all that a mask would. */
  isPlain(window?: number): boolean {
    const time = this.positions.shape[1]!;
    return !this.visible && !this.#documentStarts && (window === undefined || (typeof time === "number" && time <= window));
  }

  /**
   * Added to the scores, broadcasts against [batch, heads, time, keys]. All layers share it.
   * @param window tokens that a token sees at most, itself included; default: all before it
   */
  mask(window?: number): Tensor {
    return this.visible
      ? this.#kept(`${window}`, () => this.#hiding(this.visible!, window))
      : this.causalMask(window, 0, this.positions.shape[1]!);
  }

  /** As {@link mask}, of the tokens `from` … `to` over those up to `to`; where nothing is said to be visible. */
  causalMask(window: number | undefined, from: Dim, to: Dim): Tensor {
    const starts = this.#documentStarts;
    return this.#kept(`${window} ${from} ${to}`, () =>
      this.#hiding(causal(from, to, starts && slice(starts, 1, from, to)), window, from, to),
    );
  }

  #kept(key: string, make: () => Tensor): Tensor {
    const known = this.#masks.get(key);
    if (known) return known;
    const mask = make();
    this.#masks.set(key, mask);
    return mask;
  }

  /** A mask of what is visible and near enough. */
  #hiding(visible: Tensor, window: number | undefined, from: Dim = 0, to?: Dim): Tensor {
    if (window === undefined) return where(visible, 0, hiddenScore);
    const [rows, keys] = [slice(this.positions, 1, from, to), slice(this.keyPositions, 1, 0, to)];
    const near = unsqueeze(greater(window, sub(unsqueeze(rows, 2), unsqueeze(keys, 1))), 1);
    return where(logicalAnd(visible, near), 0, hiddenScore);
  }
}

/** int64 [batch, time]: where each token stands in its sequence. */
export function positionsOf({ positions, documentStarts }: DecoderInputs, batch: Dim, time: Dim): Tensor {
  if (positions) return positions;
  const columns = unsqueeze(range(time), 0);
  return documentStarts ? sub(columns, documentStarts) : expand(columns, [batch, time]);
}

/** bool, broadcasts against [batch, heads, time, time]: what each token of a forward pass without `past` sees. */
export const visibleOf = ({ visible, documentStarts }: DecoderInputs, time: Dim): Tensor => visible ?? causal(0, time, documentStarts);

/** What the tokens `from` … `to` see of those up to `to`: themselves and those before, from the `starts` of their documents on. */
function causal(from: Dim, to: Dim, starts?: Tensor): Tensor {
  const columns = range(to);
  const before = lessOrEqual(columns, unsqueeze(range(subDims(to, from), from), 1));
  return starts ? logicalAnd(before, lessOrEqual(unsqueeze(unsqueeze(starts, 1), 3), columns)) : before;
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
  if (!bias && !past && !context.visible) {
    const mask = context.isPlain(window) ? undefined : (from: Dim, to: Dim) => context.causalMask(window, from, to);
    return causalAttention(q, present.key, present.value, { ...rest, mask });
  }
  const mask = bias ? add(context.mask(window), bias) : context.mask(window);
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
