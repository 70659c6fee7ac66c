import {
  addDims,
  type Dim,
  type DType,
  dimsEqual,
  divDims,
  formatShape,
  mulDims,
  type Shape,
  shapesEqual,
  subDims,
  type Tensor,
} from "../graph/index.ts";
import { isIn16Bits } from "./compute-dtype.ts";
import { defineOp, type Operands, shapeError } from "./define.ts";
import { add, broadcastShapes, cast, lessOrEqual, mul, softcap, sub, where } from "./elementwise.ts";
import { node } from "./emission.ts";
import { matmul } from "./matmul.ts";
import { concat, range, reshape, slice, split, unsqueeze } from "./movement.ts";
import { sum } from "./reduce.ts";
import { softmax } from "./softmax.ts";

/** Keys and values of some tokens, [batch, kvHeads, keys, width]. */
export interface KeyValues {
  key: Tensor;
  value: Tensor;
}

export interface AttentionOptions {
  /** Factor on the scores. Default 1/√width. */
  scale?: number | undefined;
  /** Scores are kept within ±softcap; see {@link softcap}. Default: they are not. */
  softcap?: number | undefined;
  /** Added to the scores; broadcasts against [batch, heads, queries, keys]. Hidden places hold {@link hiddenScore}; see {@link causalMask}. */
  mask?: Tensor | undefined;
}

const softmaxMatmulOp = defineOp<{ scores: Tensor; v: Tensor }, object>({
  name: "SoftmaxMatMul",
  type: ({ scores, v }) => {
    const batch = broadcastShapes(scores.shape.slice(0, -2), v.shape.slice(0, -2));
    if (!batch || !dimsEqual(scores.shape.at(-1)!, v.shape.at(-2)!))
      throw shapeError("SoftmaxMatMul", { scores, v }, "v must have one row per column of the scores");
    if (scores.dtype !== v.dtype) throw shapeError("SoftmaxMatMul", { scores, v }, "scores and v must have one dtype; cast one of them");
    return [
      { dtype: v.dtype, shape: [...batch, scores.shape.at(-2)!, v.shape.at(-1)!] },
      { dtype: scores.dtype, shape: scores.shape },
    ];
  },
  emit: ({ scores, v }) => {
    const weights = node("Softmax", [scores], { axis: -1 });
    return [node("MatMul", [weights, v]), weights];
  },
  // Σ_keys dp·p equals Σ_width dy·y, which is far smaller: one pass over the scores is saved (as in FlashAttention's backward).
  grad: ({ v, outputs }, dy, _attrs, [, dWeights]) => {
    const [y, weights] = outputs as [Tensor, Tensor];
    const delta = sum(mul(dy, y), -1, { keepDims: true });
    const scores = mul(weights, sub(matmul(dy, v, { transposeB: true }), delta));
    return {
      // The weights themselves have a gradient only in second derivatives, because this gradient reads them.
      scores: dWeights ? add(scores, mul(weights, sub(dWeights, sum(mul(dWeights, weights), -1, { keepDims: true })))) : scores,
      v: matmul(weights, dy, { transposeA: true }),
    };
  },
});

/** Added to a score to hide it: finite, so that a row with every place hidden stays finite too, and large enough that e^x is exactly 0. */
export const hiddenScore = -1e30;

/** A mask [queries, keys] that hides the future; with more keys than queries the queries are the last ones. */
export function causalMask(queries: Dim, keys: Dim, dtype: DType = "float32"): Tensor {
  const rows = unsqueeze(range(queries, subDims(keys, queries)), 1);
  return cast(where(lessOrEqual(unsqueeze(range(keys), 0), rows), 0, hiddenScore), dtype);
}

/**
 * softmax(q·kᵀ·scale + mask)·v with grouped keys and values (Ainslie et al., "GQA").
 * `q` [batch, heads, queries, width], `k` and `v` [batch, kvHeads, keys, width], heads a multiple of kvHeads → [batch, heads, queries, width].
 */
export const attention = (q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor =>
  attentionOver(q, [{ key: k, value: v }], options);

/**
 * {@link attention} over several sources at once, as over a cache and the new tokens, with one softmax over all. The scores are joined, which are
 * small, and not the keys and values, which would be copied whole. The mask's keys are those of all sources, in their order.
 */
export function attentionOver(q: Tensor, sources: readonly KeyValues[], options: AttentionOptions = {}): Tensor {
  const { batch, heads, queries, width, kvHeads, groups, keys } = checkedSizes(q, sources, options.mask);
  // The heads of one group stand one below the other, so that keys and values need no copies.
  const rows = reshape(q, [batch, kvHeads, mulDims(groups, queries), width]);
  const parts = sources.map(({ key }) => matmul(rows, key, { transposeB: true, alpha: options.scale ?? 1 / Math.sqrt(width) }));
  const joined = parts.length === 1 ? parts[0]! : concat(parts, 3);
  const { softcap: cap, mask } = options;
  const scores = cap === undefined ? joined : softcap(joined, cap);
  const masked = mask ? addMask(scores, mask, [batch, kvHeads, groups, queries, keys]) : scores;
  return reshape(mixed(masked, sources), [batch, heads, queries, sources[0]!.value.shape[3]!]);
}

function mixed(scores: Tensor, sources: readonly KeyValues[]): Tensor {
  const [only, ...more] = sources;
  // Computed in 16 bits, the product rounds its operands, but the softmax stays as it is.
  if (more.length === 0 && !isIn16Bits()) return softmaxMatmulOp({ scores, v: only!.value }, {});
  const weights = softmax(scores, -1);
  if (more.length === 0) return matmul(weights, only!.value);
  let start: Dim = 0;
  const parts = sources.map(({ value }, i) => {
    const end: Dim = addDims(start, value.shape[2]!);
    const part = matmul(i === sources.length - 1 ? slice(weights, 3, start) : slice(weights, 3, start, end), value);
    start = end;
    return part;
  });
  return parts.reduce((a, b) => add(a, b));
}

/** `scores` [batch, kvHeads, groups·queries, keys] + mask. With one query, as in decoding, nothing needs to be reshaped. */
function addMask(scores: Tensor, mask: Tensor, full: readonly [Dim, Dim, number, Dim, Dim]): Tensor {
  const [batch, kvHeads, groups, queries, keys] = full;
  if (mask.rank < 3) return queries === 1 ? add(scores, mask) : reshape(add(reshape(scores, full), mask), scores.shape);
  const at = mask.rank - 3;
  const grouped = dimsEqual(mask.shape[at]!, 1) ? [1, 1] : [kvHeads, groups];
  const before = mask.shape.slice(0, at);
  if (queries === 1) return add(scores, reshape(mask, [...before, ...grouped, mask.shape.at(-1)!]));
  return reshape(
    add(reshape(scores, [batch, kvHeads, groups, queries, keys]), reshape(mask, [...before, ...grouped, ...mask.shape.slice(at + 1)])),
    scores.shape,
  );
}

function checkedSizes(q: Tensor, sources: readonly KeyValues[], mask: Tensor | undefined) {
  const operands: Operands = { q };
  for (const [i, { key, value }] of sources.entries()) Object.assign(operands, { [`k${i || ""}`]: key, [`v${i || ""}`]: value });
  operands.mask = mask;
  const fail = (reason: string) => shapeError("Attention", operands, reason);
  if (sources.length === 0) throw fail("there must be keys and values");
  if (Object.entries(operands).some(([name, t]) => name !== "mask" && t?.rank !== 4))
    throw fail("q, k and v must be [batch, heads, time, width]");
  const [batch, heads, queries, width] = q.shape as [Dim, Dim, Dim, Dim];
  const kvHeads = sources[0]!.key.shape[1]!;
  const groups = divDims(heads, kvHeads);
  if (typeof groups !== "number") throw fail(`${heads} query heads cannot share ${kvHeads} key/value heads evenly`);
  if (typeof width !== "number") throw fail("the width of a head must be a number");
  for (const { key, value } of sources) {
    if (!dimsEqual(key.shape[3]!, width)) throw fail("q and k must have one width");
    if (!shapesEqual(key.shape.slice(0, 3), value.shape.slice(0, 3)) || !shapesEqual(key.shape.slice(0, 2), [batch, kvHeads]))
      throw fail("k and v must agree in heads and length, and with q in the batch");
  }
  const keys = sources.map(({ key }) => key.shape[2]!).reduce(addDims);
  const full: Shape = [batch, heads, queries, keys];
  const fitted = mask && broadcastShapes(mask.shape, full);
  if (mask && !(fitted && shapesEqual(fitted, full))) throw fail(`the mask does not broadcast to ${formatShape(full)}`);
  return { batch, heads, queries, width, kvHeads, groups, keys };
}

/**
 * Blocks that causal attention is cut into: the more, the less of the future is computed, and the more there is of overhead. Two are best at 256 positions;
 * four make a LoRA step on SmolLM2-135M's shape 3 % faster at 512 and 7 % at 1024 (measured).
 */
const causalBlocks = (queries: number): number => Math.max(Math.min(2, Math.floor(queries / 64)), Math.min(4, Math.floor(queries / 128)));

export interface CausalAttentionOptions extends Omit<AttentionOptions, "mask"> {
  /**
   * Where a position sees less than itself and all before: what is added to the scores of queries `from` … `to` over keys 0 … `to`, in place of the
   * {@link causalMask}; broadcasts against [batch, heads, to − from, to]. There are as many keys as queries then.
   */
  mask?: ((from: Dim, to: Dim) => Tensor) | undefined;
}

/**
 * {@link attention} where each position sees itself and the ones before. The queries are cut into blocks, and each block reads only the keys
 * up to its own end: with two blocks a quarter of the work on scores is never done, with four three eighths. With more keys than queries the queries are the last ones.
 */
export function causalAttention(q: Tensor, k: Tensor, v: Tensor, { mask, ...options }: CausalAttentionOptions = {}): Tensor {
  const [queries, keys] = [q.shape[2] ?? 1, k.shape[2] ?? 1];
  const maskOf = (from: Dim, to: Dim) => (mask ? cast(mask(from, to), q.dtype) : causalMask(subDims(to, from), to, q.dtype));
  const count = typeof queries === "number" && queries === keys ? causalBlocks(queries) : 1;
  if (count <= 1 || typeof queries !== "number") return attention(q, k, v, { ...options, mask: maskOf(subDims(keys, queries), keys) });
  const ends = Array.from({ length: count + 1 }, (_, i) => Math.floor((i * queries) / count));
  const sizes = ends.slice(1).map((end, i) => end - ends[i]!);
  const blocks = split(q, sizes, 2).map((rows, i) => {
    const [from, to] = [ends[i]!, ends[i + 1]!];
    return attention(rows, slice(k, 2, 0, to), slice(v, 2, 0, to), { ...options, mask: maskOf(from, to) });
  });
  return concat(blocks, 2);
}
