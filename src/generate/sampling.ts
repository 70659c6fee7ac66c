/**
 * Choosing the next token from its logits. Definitions and order are those of transformers' logits processors:
 * repetition penalty → temperature → top-k → top-p → min-p → draw.
 */
import { EspalierError, type Random } from "../graph/index.ts";

export interface SamplingOptions {
  /** Divides the logits. 0 is greedy: the likeliest token, whatever the other filters say. Default 0. */
  temperature?: number | undefined;
  /** Keep the k likeliest tokens, and those as likely as the last of them (Fan et al., 2018). */
  topK?: number | undefined;
  /** Keep the fewest likeliest tokens whose probabilities together exceed p (Holtzman et al., 2020). */
  topP?: number | undefined;
  /** Keep tokens at least this times as likely as the likeliest (Nguyen et al., 2024). */
  minP?: number | undefined;
  /** Divides the positive and multiplies the negative logits of tokens that occurred, prompt included (Keskar et al., 2019). Default 1. */
  repetitionPenalty?: number | undefined;
}

/** Tokens that may be drawn, in the order of their ids, and their probabilities. */
export interface Distribution {
  ids: Int32Array;
  probabilities: Float64Array;
}

/** The next token. `seen` are the tokens that occurred; `logits` are changed. */
export function sample(logits: Float32Array, seen: Iterable<number>, options: SamplingOptions, random: Random): number {
  if (!options.temperature) {
    penalize(logits, seen, options.repetitionPenalty);
    return likeliest(logits);
  }
  const { ids, probabilities } = distribution(logits, seen, options);
  let rest = random.uniform();
  for (let i = 0; i < ids.length; i++) {
    rest -= probabilities[i]!;
    if (rest < 0) return ids[i]!;
  }
  // Rounding may leave a crumb after the last one.
  return ids.at(-1)!;
}

/** What {@link sample} draws from at a temperature above 0. `logits` are changed. */
export function distribution(logits: Float32Array, seen: Iterable<number>, options: SamplingOptions): Distribution {
  penalize(logits, seen, options.repetitionPenalty);
  const greatest = logits[likeliest(logits)]!;
  const temperature = options.temperature || 1;
  // The greatest logit taken off first: the likeliest token weighs 1, and no exponential overflows at any temperature.
  const weights = new Float64Array(logits.length);
  const ids = new Int32Array(logits.length);
  for (let i = 0; i < logits.length; i++) {
    weights[i] = Math.exp((logits[i]! - greatest) / temperature);
    ids[i] = i;
  }
  let left: Candidates = { ids, weights };
  const { topK, topP, minP } = options;
  if (topK !== undefined && topK < logits.length)
    left = atLeast(
      left,
      leastKept(weights, logits.length - topK, () => 1),
    );
  if (topP !== undefined && topP < 1) left = nucleus(left, topP);
  if (minP !== undefined && minP > 0) left = atLeast(left, minP);
  const probabilities = left.weights.slice();
  const total = sum(probabilities);
  for (let i = 0; i < probabilities.length; i++) probabilities[i]! /= total;
  return { ids: left.ids, probabilities };
}

/** Tokens that are left, and their probabilities up to a common factor: the likeliest has 1. */
interface Candidates {
  ids: Int32Array;
  weights: Float64Array;
}

/** The candidates from a weight of `least` on, but for the first `without` of those that weigh exactly that. */
function atLeast({ ids, weights }: Candidates, least: number, without = 0): Candidates {
  const kept = { ids: new Int32Array(ids.length), weights: new Float64Array(ids.length) };
  let count = 0;
  let ties = without;
  // A loop over arrays made in advance: callbacks for each word of a vocabulary would cost as much as the model.
  for (let i = 0; i < ids.length; i++) {
    const weight = weights[i]!;
    if (weight < least || (weight === least && ties-- > 0)) continue;
    kept.ids[count] = ids[i]!;
    kept.weights[count++] = weight;
  }
  return { ids: kept.ids.subarray(0, count), weights: kept.weights.subarray(0, count) };
}

/** Drops the unlikeliest tokens while what is dropped is at most 1 − p; the likeliest always stays. */
function nucleus(candidates: Candidates, p: number): Candidates {
  const { weights } = candidates;
  const allowance = (1 - p) * sum(weights);
  const least = leastKept(weights, allowance, (weight) => weight);
  let [below, equal] = [0, 0];
  for (const weight of weights) {
    if (weight < least) below += weight;
    else if (weight === least) equal++;
  }
  // Of equally likely ones the first go, as in a stable sort.
  return atLeast(candidates, least, Math.min(equal - 1, Math.floor((allowance - below) / least)));
}

/**
 * When weights are dropped from the least on, while the costs of those dropped add up to at most `allowance`: the least weight that is kept.
 * A quickselect, in time proportional to the number of weights.
 */
function leastKept(values: Float64Array, allowance: number, cost: (value: number) => number): number {
  const list = values.slice();
  let spent = 0;
  for (let low = 0, high = list.length; low < high; ) {
    const pivot = list[(low + high) >>> 1]!;
    let [less, greater, costLess, costEqual] = [low, high, 0, 0];
    for (let i = low; i < greater; ) {
      const value = list[i]!;
      if (value < pivot) {
        costLess += cost(value);
        list[i++] = list[less]!;
        list[less++] = value;
      } else if (value > pivot) {
        list[i] = list[--greater]!;
        list[greater] = value;
      } else {
        costEqual += cost(value);
        i++;
      }
    }
    if (spent + costLess > allowance) high = less;
    else if (spent + costLess + costEqual > allowance) return pivot;
    else {
      spent += costLess + costEqual;
      low = greater;
    }
  }
  return 1; // Rounding ate the allowance: only the likeliest is left, which weighs 1.
}

function penalize(logits: Float32Array, seen: Iterable<number>, penalty = 1): void {
  if (penalty === 1) return;
  for (const id of new Set(seen)) logits[id] = logits[id]! < 0 ? logits[id]! * penalty : logits[id]! / penalty;
}

/** The greatest logit's token; the first of several. */
function likeliest(logits: Float32Array): number {
  let best = 0;
  let broken = 0;
  for (let i = 0; i < logits.length; i++) {
    if (logits[i]! > logits[best]!) best = i;
    else if (Number.isNaN(logits[i]!)) broken++;
  }
  if (broken > 0 || !Number.isFinite(logits[best]!)) throw notFinite(logits);
  return best;
}

/** What is said of logits of which some are NaN, or the greatest is infinite. */
export function notFinite(logits: Float32Array): EspalierError {
  const numbers = logits.filter((z) => !Number.isNaN(z));
  const broken = logits.length - numbers.length;
  const greatest = numbers.length === 0 ? Number.NaN : numbers.reduce((a, z) => Math.max(a, z));
  return new EspalierError(
    "not-finite",
    `The model's logits are not finite numbers (${broken} of ${logits.length} are NaN, the greatest is ${greatest}): its weights are damaged, or training has diverged. Go back to an earlier checkpoint.`,
  );
}

function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
