import { dimsEqual, shapesEqual, type Tensor } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { add, cast, div, equal, exp, logicalNot, mul, neg, sub, where } from "./elementwise.ts";
import { int64s, node, scalar } from "./emission.ts";
import { gatherElements, scatterElementsAdd } from "./indexing.ts";
import { fill, squeeze, unsqueeze } from "./movement.ts";
import { mean, sum } from "./reduce.ts";

export interface CrossEntropyOptions {
  /** Targets with this id contribute exactly nothing. Default −100. */
  ignoreIndex?: number;
  /** Share of the target mass that is spread evenly over all classes. Default 0. */
  labelSmoothing?: number;
  /** A factor on each target's loss, of the targets' shape. */
  weights?: Tensor;
}

type CrossEntropyInputs = { logits: Tensor; targets: Tensor; weights: Tensor; counted: Tensor };

const crossEntropyOp = defineOp<CrossEntropyInputs, { smoothing: number }>({
  name: "CrossEntropy",
  type: ({ logits, targets }) => [
    { dtype: logits.dtype, shape: targets.shape },
    { dtype: logits.dtype, shape: logits.shape },
  ],
  // Ignored targets are left out by selection: their loss may be infinite or not a number, and no factor makes that 0.
  emit: ({ logits, targets, weights, counted }, { smoothing }, { inputs: { logits: x } }) => {
    const logProbabilities = node("LogSoftmax", [logits], { axis: -1 });
    const picked = node("GatherElements", [logProbabilities, node("Unsqueeze", [targets, int64s([-1])])], { axis: -1 });
    const nll = node("Neg", [node("Squeeze", [picked, int64s([-1])])]);
    const weighted = (loss: typeof nll) => node("Where", [counted, node("Mul", [loss, weights]), scalar(x.dtype, 0)]);
    if (smoothing === 0) return [weighted(nll), logProbabilities];
    const uniform = node("ReduceMean", [logProbabilities, int64s([-1])], { keepdims: 0 });
    const smoothed = node("Sub", [node("Mul", [nll, scalar(x.dtype, 1 - smoothing)]), node("Mul", [uniform, scalar(x.dtype, smoothing)])]);
    return [weighted(smoothed), logProbabilities];
  },
  // d logits = (softmax − target distribution) · weight · dy, with one scatter in place of a dense one-hot
  grad: ({ logits, targets, weights, counted, outputs }, dy, { smoothing }, [, dLogProbabilities]) => {
    const scale = unsqueeze(mul(dy, weights), -1);
    const logProbabilities = outputs[1]!;
    const probabilities = exp(logProbabilities);
    const smoothed = smoothing === 0 ? probabilities : sub(probabilities, smoothing / (logits.shape.at(-1) as number));
    // The factor of each row comes last, where the product behind it can take it over (see matmul).
    const direct = mul(scatterElementsAdd(smoothed, unsqueeze(targets, -1), fill(scale.shape, smoothing - 1, scale.dtype), -1), scale);
    // The log-probabilities have a gradient of their own only in second derivatives, because this gradient reads them.
    const further = dLogProbabilities && sub(dLogProbabilities, mul(probabilities, sum(dLogProbabilities, -1, { keepDims: true })));
    const nll = neg(squeeze(gatherElements(logProbabilities, unsqueeze(targets, -1)), -1));
    const loss = smoothing === 0 ? nll : sub(mul(nll, 1 - smoothing), mul(mean(logProbabilities, -1), smoothing));
    return {
      logits: further ? add(direct, further) : direct,
      weights: where(counted, mul(dy, loss), 0),
    };
  },
});

/** Which targets count, ids that exist in place of those that do not, and the weight of each target: 0 where it does not count. */
export function countedTargets(
  targets: Tensor,
  dtype: Tensor["dtype"],
  { ignoreIndex = -100, weights }: Pick<CrossEntropyOptions, "ignoreIndex" | "weights">,
): { counted: Tensor; ids: Tensor; weights: Tensor } {
  if (weights && (weights.dtype !== dtype || !shapesEqual(weights.shape, targets.shape)))
    throw shapeError("CrossEntropy", { targets, weights }, `weights must be ${dtype}, as the logits, and have the shape of the targets`);
  const counted = logicalNot(equal(targets, ignoreIndex));
  return { counted, ids: where(counted, targets, 0), weights: weights ? where(counted, weights, 0) : cast(counted, dtype) };
}

/**
 * Cross-entropy of `logits` [..., classes] against int64 `targets` [...]: one loss per target, and the weight it carries.
 * Ignored targets give exactly 0 with exactly zero gradient, also where some of their logits are −∞ (not where all are: such a row has no probabilities).
 */
export function crossEntropyPerTarget(
  logits: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions = {},
): { losses: Tensor; weights: Tensor } {
  if (targets.dtype !== "int64" || targets.rank !== logits.rank - 1 || targets.shape.some((d, i) => !dimsEqual(d, logits.shape[i]!))) {
    throw shapeError("CrossEntropy", { logits, targets }, "targets must be int64 and have the shape of the logits without the last axis");
  }
  const { counted, ids, weights } = countedTargets(targets, logits.dtype, options);
  return {
    losses: crossEntropyOp({ logits, targets: ids, weights, counted }, { smoothing: options.labelSmoothing ?? 0 }),
    weights,
  };
}

/** Mean cross-entropy (nats) over the targets that count; 0 when none does. */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { losses, weights } = crossEntropyPerTarget(logits, targets, options);
  const total = sum(weights);
  return div(sum(losses), where(equal(total, 0), 1, total));
}
