import { formatShape, shapesEqual, type Tensor } from "../graph/index.ts";
import { shapeError } from "./define.ts";
import { div, equal, exp, log, maximum, mul, softplus, sqrt, sub, where } from "./elementwise.ts";
import { mean, sum } from "./reduce.ts";
import { logSoftmax } from "./softmax.ts";

// Losses that compare two tensors element by element or row by row. All take means, so that a learning rate fits every batch size.

function checkAlike(name: string, operands: Record<string, Tensor>): void {
  const [a, b] = Object.values(operands) as [Tensor, Tensor];
  if (a.dtype !== b.dtype || !shapesEqual(a.shape, b.shape)) throw shapeError(name, operands, "both must have one dtype and shape");
}

/** Mean of (x − target)². */
export function meanSquaredError(x: Tensor, target: Tensor): Tensor {
  checkAlike("meanSquaredError", { x, target });
  const difference = sub(x, target);
  return mean(mul(difference, difference));
}

/** Binary cross-entropy (nats) of each logit against a probability `target` in [0, 1]; computed without overflow. */
export function binaryCrossEntropyPerElement(logits: Tensor, target: Tensor): Tensor {
  checkAlike("binaryCrossEntropy", { logits, target });
  return sub(softplus(logits), mul(logits, target)); // −t·log σ(x) − (1−t)·log(1−σ(x))
}

/** Mean of {@link binaryCrossEntropyPerElement}. */
export const binaryCrossEntropy = (logits: Tensor, target: Tensor): Tensor => mean(binaryCrossEntropyPerElement(logits, target));

/** Kullback–Leibler divergence (nats) of softmax(`logits`) from the distributions `target`, both [..., classes] → [...]; 0·log 0 counts as 0. */
export function klDivergencePerRow(target: Tensor, logits: Tensor): Tensor {
  checkAlike("klDivergence", { target, logits });
  const absent = equal(target, 0);
  const logTarget = log(where(absent, 1, target));
  return sum(mul(target, sub(logTarget, logSoftmax(logits))), -1);
}

/** Mean over rows of {@link klDivergencePerRow}. */
export const klDivergence = (target: Tensor, logits: Tensor): Tensor => mean(klDivergencePerRow(target, logits));

/** As {@link klDivergence} of two sets of logits: what distillation minimises, with the teacher's first. */
export function klDivergenceOfLogits(targetLogits: Tensor, logits: Tensor): Tensor {
  checkAlike("klDivergence", { targetLogits, logits });
  const logTarget = logSoftmax(targetLogits);
  return mean(sum(mul(exp(logTarget), sub(logTarget, logSoftmax(logits))), -1));
}

/** Cosine of the angle between `a` and `b` along an axis; a vector shorter than `epsilon` counts as that long. */
export function cosineSimilarity(a: Tensor, b: Tensor, axis = -1, epsilon = 1e-8): Tensor {
  checkAlike("cosineSimilarity", { a, b });
  // The maximum is taken of the squares: the root has no slope at a vector of zeros.
  const size = (t: Tensor) => sqrt(maximum(sum(mul(t, t), axis), epsilon * epsilon));
  return div(sum(mul(a, b), axis), mul(size(a), size(b)));
}

/**
 * Mean over pairs of 1 − cos for those labelled 1, and of max(0, cos − margin) for those labelled −1.
 * `a` and `b` [..., width], `labels` [...] of the same dtype.
 */
export function cosineEmbeddingLoss(a: Tensor, b: Tensor, labels: Tensor, margin = 0): Tensor {
  const cosine = cosineSimilarity(a, b);
  if (labels.dtype !== cosine.dtype || !shapesEqual(labels.shape, cosine.shape))
    throw shapeError("cosineEmbeddingLoss", { a, b, labels }, `the labels must be ${cosine.dtype} ${formatShape(cosine.shape)}`);
  return mean(where(equal(labels, 1), sub(1, cosine), maximum(sub(cosine, margin), 0)));
}
