import { EspalierError } from "../graph/index.ts";

/** How often `predicted[i]` equals `actual[i]`, from 0 to 1. */
export function accuracy(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("accuracy", predicted, actual);
  return predicted.filter((label, i) => label === actual[i]).length / actual.length;
}

export interface PrecisionRecallF1 {
  /** Of the examples called positive, the share that is. */
  precision: number;
  /** Of the examples that are positive, the share called so. */
  recall: number;
  /** Harmonic mean of the two. */
  f1: number;
}

/** Precision, recall and F1 of one class. A ratio without a denominator is 0, as in scikit-learn. */
export function precisionRecallF1(predicted: readonly number[], actual: readonly number[], positive: number): PrecisionRecallF1 {
  checkPairs("precisionRecallF1", predicted, actual);
  let hits = 0;
  let called = 0;
  let present = 0;
  for (let i = 0; i < actual.length; i++) {
    if (predicted[i] === positive) called++;
    if (actual[i] === positive) present++;
    if (predicted[i] === positive && actual[i] === positive) hits++;
  }
  return {
    precision: called === 0 ? 0 : hits / called,
    recall: present === 0 ? 0 : hits / present,
    f1: called + present === 0 ? 0 : (2 * hits) / (called + present),
  };
}

/** Mean F1 over the classes that occur in either list: every class counts the same, however rare. */
export function macroF1(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("macroF1", predicted, actual);
  const classes = [...new Set([...predicted, ...actual])];
  return classes.reduce((sum, label) => sum + precisionRecallF1(predicted, actual, label).f1, 0) / classes.length;
}

/** `matrix[a][p]`: how many examples of class `a` were called `p`; classes are the integers from 0 to `classes - 1`. */
export function confusionMatrix(predicted: readonly number[], actual: readonly number[], classes: number): number[][] {
  checkPairs("confusionMatrix", predicted, actual);
  const matrix = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  for (let i = 0; i < actual.length; i++) {
    const row = matrix[actual[i]!];
    if (row?.[predicted[i]!] === undefined) {
      const pair = `actual ${actual[i]}, predicted ${predicted[i]}`;
      throw new EspalierError("class-out-of-range", `confusionMatrix: example ${i} (${pair}) is outside the classes 0 to ${classes - 1}.`);
    }
    row[predicted[i]!]!++;
  }
  return matrix;
}

/**
 * Area under the ROC curve: the chance that a random positive scores higher than a random negative, a tie counting one half.
 * By the Mann-Whitney U statistic: equal scores share the mean of their ranks. NaN when a class is missing, since no pair exists.
 */
export function rocAuc(scores: readonly number[], isPositive: readonly boolean[]): number {
  checkPairs("rocAuc", scores, isPositive);
  const unusable = scores.findIndex((score) => Number.isNaN(score));
  if (unusable >= 0) throw new EspalierError("score-not-a-number", `rocAuc: score ${unusable} is NaN, so the examples cannot be ranked.`);
  const order = scores.map((_, i) => i).sort((a, b) => (scores[a]! < scores[b]! ? -1 : scores[a]! > scores[b]! ? 1 : 0));
  let positives = 0;
  let positiveRanks = 0;
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && scores[order[end]!] === scores[order[start]!]) end++;
    const midRank = (start + 1 + end) / 2;
    for (let k = start; k < end; k++) {
      if (!isPositive[order[k]!]) continue;
      positives++;
      positiveRanks += midRank;
    }
    start = end;
  }
  const negatives = scores.length - positives;
  if (positives === 0 || negatives === 0) return Number.NaN;
  return (positiveRanks - (positives * (positives + 1)) / 2) / (positives * negatives);
}

/** The commonest label and the accuracy of always answering it; among equals the label that comes first. */
export function majorityClass<L extends string | number>(labels: readonly L[]): { label: L; accuracy: number } {
  if (labels.length === 0) throw new EspalierError("no-examples", "majorityClass: there are no labels to count.");
  const counts = new Map<L, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const [label, count] = [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
  return { label, accuracy: count / labels.length };
}

/**
 * Mean negative log-likelihood in nats. `probabilities[i]` is a distribution over the classes; `actual[i]` is a class.
 * Probabilities are held above 1e-15, so that one confident mistake does not make every comparison infinite.
 */
export function logLoss(probabilities: readonly (readonly number[])[], actual: readonly number[]): number {
  checkPairs("logLoss", probabilities, actual);
  let sum = 0;
  for (let i = 0; i < actual.length; i++) {
    const probability = probabilities[i]![actual[i]!];
    if (probability === undefined) {
      const classes = probabilities[i]!.length;
      throw new EspalierError("class-out-of-range", `logLoss: example ${i} is of class ${actual[i]}, but has ${classes} probabilities.`);
    }
    sum -= Math.log(Math.max(probability, 1e-15));
  }
  return sum / actual.length;
}

function checkPairs(metric: string, first: readonly unknown[], second: readonly unknown[]): void {
  if (first.length !== second.length) {
    throw new EspalierError("length-mismatch", `${metric}: the lists must be equally long, but hold ${first.length} and ${second.length}.`);
  }
  if (first.length === 0) throw new EspalierError("no-examples", `${metric}: there is nothing to measure in an empty list.`);
}
