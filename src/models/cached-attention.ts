import { addDims, type Dim, divDims, mulDims, type Tensor } from "../graph/index.ts";
import { add, concat, matmul, reshape, slice, softmax } from "../ops/index.ts";

/** Keys and values of one layer, [batch, kvHeads, time, headDim]. */
export interface KeyValues {
  key: Tensor;
  value: Tensor;
}

/**
 * Attention of new tokens over `past` and themselves, without joining the two: the scores are joined, which are small, and not the keys and
 * values, which would be copied whole for every token.
 *
 * `q` [batch, heads, time, width]; `past` [batch, kvHeads, kept, width]; `fresh` [batch, kvHeads, time, width];
 * `mask` [batch, 1, time, kept + time] or [time, kept + time], added to the scores → [batch, heads, time, width].
 */
export function cachedAttention(q: Tensor, past: KeyValues, fresh: KeyValues, mask: Tensor): Tensor {
  const [batch, heads, time, width] = q.shape as [Dim, Dim, Dim, number];
  const [, kvHeads, kept] = past.key.shape as [Dim, Dim, Dim];
  const groups = divDims(heads, kvHeads)!;
  const keys = addDims(kept, time);
  // As in `attention`, the heads that share keys stand one below the other.
  const rows = reshape(q, [batch, kvHeads, mulDims(groups, time), width]);
  const product = (key: Tensor) => matmul(rows, key, { transposeB: true, alpha: 1 / Math.sqrt(width) });
  const scores = concat([product(past.key), product(fresh.key)], 3);
  const grouped = (t: Tensor, ...shape: Dim[]) => (time === 1 ? t : reshape(t, shape));
  const masked = add(
    grouped(scores, batch, kvHeads, groups, time, keys),
    mask.rank < 4 ? mask : grouped(mask, mask.shape[0]!, 1, 1, time, keys),
  );
  const weights = softmax(reshape(masked, scores.shape), -1);
  const y = add(matmul(slice(weights, 3, 0, kept), past.value), matmul(slice(weights, 3, kept), fresh.value));
  return reshape(y, [batch, heads, time, width]);
}
