import { checkPairs } from "./pairs.ts";

/** Mean of the squared errors. */
export function meanSquaredError(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("meanSquaredError", predicted, actual);
  return mean(predicted.map((value, i) => (value - actual[i]!) ** 2));
}

/** Mean of the errors without their sign. */
export function meanAbsoluteError(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("meanAbsoluteError", predicted, actual);
  return mean(predicted.map((value, i) => Math.abs(value - actual[i]!)));
}

/**
 * Share of the variance that is explained (R²): 1 is perfect, 0 no better than always saying the mean. Where the actual values are all equal: 1 for
 * exact predictions and 0 for others, as in scikit-learn; NaN for a single example.
 */
export function rSquared(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("rSquared", predicted, actual);
  if (actual.length < 2) return Number.NaN;
  const centre = mean(actual);
  const total = actual.reduce((sum, value) => sum + (value - centre) ** 2, 0);
  const left = predicted.reduce((sum, value, i) => sum + (value - actual[i]!) ** 2, 0);
  return total === 0 ? (left === 0 ? 1 : 0) : 1 - left / total;
}

/** Linear correlation, from −1 to 1. NaN where either list does not vary. */
export function pearsonCorrelation(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("pearsonCorrelation", predicted, actual);
  const [a, b] = [mean(predicted), mean(actual)];
  let [product, squaresA, squaresB] = [0, 0, 0];
  for (let i = 0; i < actual.length; i++) {
    const [x, y] = [predicted[i]! - a, actual[i]! - b];
    product += x * y;
    squaresA += x * x;
    squaresB += y * y;
  }
  return squaresA === 0 || squaresB === 0 ? Number.NaN : product / Math.sqrt(squaresA * squaresB);
}

/** Correlation of the ranks, from −1 to 1; equal values share the mean of their ranks. NaN where either list does not vary. */
export function spearmanCorrelation(predicted: readonly number[], actual: readonly number[]): number {
  checkPairs("spearmanCorrelation", predicted, actual);
  return pearsonCorrelation(ranks(predicted), ranks(actual));
}

/** Ranks from 1; equal values share the mean of theirs. */
export function ranks(values: readonly number[]): number[] {
  const order = values.map((_, i) => i).sort((a, b) => (values[a]! < values[b]! ? -1 : values[a]! > values[b]! ? 1 : 0));
  const result = new Array<number>(values.length);
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++;
    for (let k = start; k < end; k++) result[order[k]!] = (start + 1 + end) / 2;
    start = end;
  }
  return result;
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
