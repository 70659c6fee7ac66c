import {
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
import { defineOp, type Op, shapeError } from "./define.ts";
import { add, broadcastShapes, cast, lessOrEqual, mul, sub, where } from "./elementwise.ts";
import { contrib, int64s, node, result } from "./emission.ts";
import { matmul } from "./matmul.ts";
import { concat, range, reshape, slice, split, unsqueeze } from "./movement.ts";
import { sum } from "./reduce.ts";

type RotaryInputs = { x: Tensor; cos: Tensor; sin: Tensor; positions: Tensor };

const rotaryOp: Op<RotaryInputs, { inverse: boolean }> = defineOp<RotaryInputs, { inverse: boolean }>({
  name: "Rotary",
  type: ({ x, cos, sin, positions }) => {
    const half = divDims(x.shape.at(-1) ?? 0, 2);
    const ok =
      x.rank === 4 &&
      half !== undefined &&
      cos.rank === 2 &&
      dimsEqual(cos.shape[1]!, half) &&
      sin.rank === 2 &&
      dimsEqual(sin.shape[1]!, half);
    if (!ok) throw shapeError("Rotary", { x, cos, sin }, "x must be [batch, heads, time, width] and the tables [positions, width/2]");
    if (cos.dtype !== x.dtype || sin.dtype !== x.dtype)
      throw shapeError("Rotary", { x, cos, sin }, "the tables must have the dtype of x; cast one of them");
    if (positions.dtype !== "int64" || positions.rank !== 2 || !dimsEqual(positions.shape[1]!, x.shape[2]!))
      throw shapeError("Rotary", { x, positions }, "positions must be int64 [batch, time]");
    return { dtype: x.dtype, shape: x.shape };
  },
  emit: ({ x, cos, sin, positions }, { inverse }, { provider }) => {
    const table = inverse ? node("Neg", [sin]) : sin;
    if (provider === "cpu" || provider === "wasm") return node("RotaryEmbedding", [x, positions, cos, table], { interleaved: 0 }, contrib);
    const at = (t: typeof x) => node("Unsqueeze", [node("Gather", [t, positions], { axis: 0 }), int64s([1])]);
    const [c, s] = [at(cos), at(table)];
    const first = node("Split", [x], { axis: -1, num_outputs: 2 }, { outputs: 2 });
    const second = result(first, 1);
    return node(
      "Concat",
      [node("Sub", [node("Mul", [first, c]), node("Mul", [second, s])]), node("Add", [node("Mul", [second, c]), node("Mul", [first, s])])],
      { axis: -1 },
    );
  },
  // A rotation is orthogonal: its transpose is the rotation by the negative angle.
  grad: ({ cos, sin, positions }, dy, { inverse }) => ({ x: rotaryOp({ x: dy, cos, sin, positions }, { inverse: !inverse }) }),
});

/**
 * Rotary position embedding in the half-split layout of Llama checkpoints (Su et al., "RoFormer").
 * `x` [batch, heads, time, width]; `cos` and `sin` [positions, width/2]; `positions` int64 [batch, time].
 */
export const rotary = (x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor): Tensor =>
  rotaryOp({ x, cos, sin, positions }, { inverse: false });

export interface AttentionOptions {
  /** Factor on the scores. Default 1/√width. */
  scale?: number;
  /** Added to the scores; broadcasts against [batch, heads, queries, keys]. Hidden places hold {@link hiddenScore}; see {@link causalMask}. */
  mask?: Tensor;
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
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const operands = { q, k, v, mask: options.mask };
  if ([q, k, v].some((t) => t.rank !== 4)) throw shapeError("Attention", operands, "q, k and v must be [batch, heads, time, width]");
  const [batch, heads, queries, width] = q.shape as [Dim, Dim, Dim, Dim];
  const [, kvHeads, keys] = k.shape as [Dim, Dim, Dim];
  const groups = divDims(heads, kvHeads);
  if (typeof groups !== "number")
    throw shapeError("Attention", operands, `${heads} query heads cannot share ${kvHeads} key/value heads evenly`);
  if (typeof width !== "number") throw shapeError("Attention", operands, "the width of a head must be a number");
  if (!dimsEqual(k.shape[3]!, width)) throw shapeError("Attention", operands, "q and k must have one width");
  if (!shapesEqual(k.shape.slice(0, 3), v.shape.slice(0, 3)) || !dimsEqual(k.shape[0]!, batch))
    throw shapeError("Attention", operands, "k and v must agree in heads and length, and with q in the batch");
  const full: Shape = [batch, heads, queries, keys];
  const fitted = options.mask && broadcastShapes(options.mask.shape, full);
  if (options.mask && !(fitted && shapesEqual(fitted, full)))
    throw shapeError("Attention", operands, `the mask does not broadcast to ${formatShape(full)}`);
  // The heads of one group stand one below the other, so that keys and values need no copies.
  const rows = mulDims(groups, queries);
  const scores = matmul(reshape(q, [batch, kvHeads, rows, width]), k, { transposeB: true, alpha: options.scale ?? 1 / Math.sqrt(width) });
  const masked = options.mask
    ? reshape(add(reshape(scores, [batch, kvHeads, groups, queries, keys]), groupedMask(options.mask, kvHeads, groups)), scores.shape)
    : scores;
  return reshape(softmaxMatmulOp({ scores: masked, v }, {}), [batch, heads, queries, v.shape[3]!]);
}

/** [batch, heads, queries, keys] → [batch, kvHeads, groups, queries, keys]; masks of lower rank broadcast as they are. */
function groupedMask(mask: Tensor, kvHeads: Dim, groups: number): Tensor {
  if (mask.rank < 3) return mask;
  const at = mask.rank - 3;
  const heads = dimsEqual(mask.shape[at]!, 1) ? [1, 1] : [kvHeads, groups];
  return reshape(mask, [...mask.shape.slice(0, at), ...heads, ...mask.shape.slice(at + 1)]);
}

/** Blocks that causal attention is cut into. Four leave more of the future out than two, and lose it again to overhead (measured at 256 positions). */
const causalBlocks = { atMost: 2, rowsAtLeast: 64 };

/**
 * {@link attention} where each position sees itself and the ones before. The queries are cut into blocks, and each block reads only the keys
 * up to its own end: with two blocks a quarter of the work on scores is never done. With more keys than queries the queries are the last ones.
 */
export function causalAttention(q: Tensor, k: Tensor, v: Tensor, options: { scale?: number } = {}): Tensor {
  const [queries, keys] = [q.shape[2], k.shape[2]];
  const count =
    typeof queries === "number" && queries === keys ? Math.min(causalBlocks.atMost, Math.floor(queries / causalBlocks.rowsAtLeast)) : 1;
  if (count <= 1 || typeof queries !== "number")
    return attention(q, k, v, { ...options, mask: causalMask(queries ?? 1, keys ?? 1, q.dtype) });
  const sizes = Array.from({ length: count }, (_, i) => Math.floor(((i + 1) * queries) / count) - Math.floor((i * queries) / count));
  let end = 0;
  const blocks = split(q, sizes, 2).map((rows, i) => {
    end += sizes[i]!;
    return attention(rows, slice(k, 2, 0, end), slice(v, 2, 0, end), { ...options, mask: causalMask(sizes[i]!, end, q.dtype) });
  });
  return concat(blocks, 2);
}
