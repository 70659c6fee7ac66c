import { EspalierError } from "../../graph/index.ts";
import { checkPairs, counted } from "./pairs.ts";
import { ranks } from "./regression.ts";

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
  return ratios(hits, called, present);
}

/** The three from how many were called so, are so, and are both. */
export function ratios(hits: number, called: number, present: number): PrecisionRecallF1 {
  return {
    precision: called === 0 ? 0 : hits / called,
    recall: present === 0 ? 0 : hits / present,
    f1: called + present === 0 ? 0 : (2 * hits) / (called + present),
  };
}

/** How the figures of several classes become one: all decisions counted together; every class alike; or every class by its examples. */
export type Average = "micro" | "macro" | "weighted";

/**
 * Precision, recall and F1 over the classes that occur in either list, averaged as scikit-learn does.
 *
 * @param classes those that count; default all
 */
export function averagedPrecisionRecallF1(
  predicted: readonly number[],
  actual: readonly number[],
  average: Average,
  classes: readonly number[] = [...new Set([...predicted, ...actual])],
): PrecisionRecallF1 {
  checkPairs("averagedPrecisionRecallF1", predicted, actual);
  if (average === "micro") {
    const [called, present] = [predicted, actual].map((list) => list.filter((label) => classes.includes(label)).length) as [number, number];
    return ratios(predicted.filter((label, i) => label === actual[i] && classes.includes(label)).length, called, present);
  }
  const scores = classes.map((label) => precisionRecallF1(predicted, actual, label));
  const weights = classes.map((label) => (average === "macro" ? 1 : actual.filter((other) => other === label).length));
  const total = weights.reduce((a, b) => a + b, 0);
  const mean = (key: keyof PrecisionRecallF1) =>
    total === 0 ? 0 : scores.reduce((sum, score, i) => sum + score[key] * weights[i]!, 0) / total;
  return { precision: mean("precision"), recall: mean("recall"), f1: mean("f1") };
}

/** Mean F1 over the classes that occur in either list: every class counts the same, however rare. */
export function macroF1(predicted: readonly number[], actual: readonly number[]): number {
  return averagedPrecisionRecallF1(predicted, actual, "macro").f1;
}

/**
 * Correlation of predicted and actual classes, from −1 to 1 (Gorodkin, "Comparing two K-category assignments by a K-category correlation
 * coefficient"; Matthews' coefficient where there are two classes). 0 where either list has one class only.
 */
export function matthewsCorrelation(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("matthewsCorrelation", predicted, actual);
  const n = actual.length;
  const [called, present] = [counted(predicted), counted(actual)];
  const correct = predicted.filter((label, i) => label === actual[i]).length;
  let shared = 0;
  for (const [label, count] of called) shared += count * (present.get(label) ?? 0);
  const spread = (counts: ReadonlyMap<number, number>) => n * n - [...counts.values()].reduce((sum, count) => sum + count * count, 0);
  const scale = Math.sqrt(spread(called)) * Math.sqrt(spread(present));
  return scale === 0 ? 0 : (correct * n - shared) / scale;
}

/** How often the actual class is among the `k` with the greatest scores. A tie counts against it. */
export function topKAccuracy(scores: readonly ArrayLike<number>[], actual: readonly number[], k: number): number {
  checkPairs("topKAccuracy", scores, actual);
  const hits = scores.filter((row, i) => {
    const own = row[actual[i]!];
    if (own === undefined)
      throw new EspalierError("class-out-of-range", `topKAccuracy: example ${i} is of class ${actual[i]}, which has no score.`);
    return Array.from(row).filter((score, label) => label !== actual[i] && score >= own).length < k;
  });
  return hits.length / actual.length;
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
  const rank = ranks(scores);
  let [positives, positiveRanks] = [0, 0];
  for (const [i, positive] of isPositive.entries()) {
    if (!positive) continue;
    positives++;
    positiveRanks += rank[i]!;
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
