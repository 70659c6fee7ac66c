import { type Dim, formatShape, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import { agreeToBroadcast } from "../agreement.ts";
import type { NodeContext, Result, Rules } from "../context.ts";

function refuseStatistics(n: NodeContext, from: number, count: number): void {
  for (let i = from; i < from + count; i++)
    if (n.wants(i)) throw n.fail(`its output ${i} (the statistics of the normalisation) is read, which is not supported`);
}

/** Weight or bias over the last axes of `x`, those from `axis` on. */
function spread(n: NodeContext, t: Tensor, x: Tensor, axis: number): Tensor {
  const shape = x.shape.slice(axis);
  if (t.rank > shape.length) throw n.fail(`${formatShape(t.shape)} does not fit the normalised axes ${formatShape(shape)}`);
  return ops.expand(t, shape);
}

function layerNorm(n: NodeContext): Tensor {
  refuseStatistics(n, 1, 2);
  const x = n.tensor(0);
  const axis = n.axis(n.int("axis", -1), x.rank);
  const bias = n.optional(2);
  return ops.layerNorm(x, spread(n, n.tensor(1), x, axis), bias && spread(n, bias, x, axis), n.float("epsilon", 1e-5));
}

function rmsNorm(n: NodeContext): Tensor {
  if (n.wants(1)) refuseStatistics(n, 1, 1);
  const x = n.tensor(0);
  if (n.axis(n.int("axis", -1), x.rank) !== x.rank - 1) throw n.fail("only the last axis can be normalised by its root mean square");
  return ops.rmsNorm(x, n.tensor(1), n.float("epsilon", 1e-5));
}

/** x + skip (+ bias), normalised; the sum is output 3. `skip` broadcasts over the batch. */
function skipNorm(n: NodeContext, biasAt: number, norm: (sum: Tensor) => Tensor): readonly Result[] {
  refuseStatistics(n, 1, 2);
  const [x, skip, bias] = [n.tensor(0), n.tensor(1), n.optional(biasAt)];
  agreeToBroadcast(x.shape, skip.shape);
  const sum = ops.add(bias ? ops.add(x, bias) : x, skip);
  return [norm(sum), undefined, undefined, n.wants(3) ? sum : undefined];
}

/** [channels] → broadcastable over [batch, channels, …]. */
const perChannel = (t: Tensor, rank: number): Tensor => ops.reshape(t, [t.shape[0]!, ...Array<Dim>(Math.max(rank - 2, 0)).fill(1)]);

function batchNorm(n: NodeContext): Tensor {
  if (n.int("training_mode", 0) === 1 || n.wants(1))
    throw n.fail("it updates its statistics, which only training does: export the model in inference mode");
  const x = n.tensor(0);
  const [scale, bias, mean, variance] = [1, 2, 3, 4].map((i) => perChannel(n.tensor(i), x.rank)) as [Tensor, Tensor, Tensor, Tensor];
  const factor = ops.div(scale, ops.sqrt(ops.add(variance, n.float("epsilon", 1e-5))));
  return ops.add(ops.mul(ops.sub(x, mean), factor), bias);
}

function instanceNorm(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const channels = x.shape[1];
  if (typeof channels !== "number") throw n.fail("the number of channels must be known");
  return ops.groupNorm(x, channels, n.tensor(1), n.tensor(2), n.float("epsilon", 1e-5));
}

function groupNorm(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const groups = n.int("num_groups", 1);
  const channels = x.shape[1];
  // Opset 18 has a factor for each group, 21 for each channel.
  const spreadOut = (t: Tensor): Tensor =>
    n.opset >= 21 || typeof channels !== "number"
      ? t
      : ops.reshape(ops.expand(ops.unsqueeze(t, 1), [groups, channels / groups]), [channels]);
  return ops.groupNorm(x, groups, spreadOut(n.tensor(1)), spreadOut(n.tensor(2)), n.float("epsilon", 1e-5));
}

function lpNorm(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const axis = n.axis(n.int("axis", -1), x.rank);
  const options = { keepDims: true };
  return ops.div(x, n.int("p", 2) === 1 ? ops.sum(ops.abs(x), axis, options) : ops.sqrt(ops.sumOfSquares(x, axis, options)));
}

/** Sum of word, position and token-type embeddings, normalised; then the lengths of the right-padded rows, then the sum itself. */
function embedLayerNorm(n: NodeContext): readonly Result[] {
  const [ids, types, words, positions, segments] = [n.tensor(0), n.optional(1), n.tensor(2), n.tensor(3), n.optional(4)];
  const mask = n.optional(7);
  const given = n.optional(8);
  const time = ids.shape[1]!;
  const byPosition = given ? ops.gather(positions, given) : ops.slice(positions, 0, 0, time);
  const sum = ops.add(ops.gather(words, ids), byPosition);
  const total = types && segments ? ops.add(sum, ops.gather(segments, types)) : sum;
  const y = ops.layerNorm(total, n.tensor(5), n.tensor(6), n.float("epsilon", 1e-12));
  const lengths = () => ops.cast(mask ? ops.sum(ops.cast(mask, "int64"), 1) : ops.fill([ids.shape[0]!], 0, "int64"), "int32");
  return [y, n.wants(1) ? lengths() : undefined, n.wants(2) ? total : undefined];
}

export const normalization: Rules = {
  LayerNormalization: layerNorm,
  // ONNX Runtime reads it from ONNX's own domain, where no opset has it; RMSNormalization is its name since opset 23.
  SimplifiedLayerNormalization: rmsNorm,
  RMSNormalization: rmsNorm,
  BatchNormalization: batchNorm,
  InstanceNormalization: instanceNorm,
  GroupNormalization: groupNorm,
  LpNormalization: lpNorm,
  "com.microsoft.SkipLayerNormalization": (n) =>
    skipNorm(n, 4, (sum) => ops.layerNorm(sum, n.tensor(2), n.optional(3), n.float("epsilon", 1e-12))),
  "com.microsoft.SkipSimplifiedLayerNormalization": (n) =>
    skipNorm(n, 3, (sum) => ops.rmsNorm(sum, n.tensor(2), n.float("epsilon", 1e-12))),
  "com.microsoft.SimplifiedLayerNormalization": rmsNorm,
  "com.microsoft.EmbedLayerNormalization": embedLayerNorm,
};
