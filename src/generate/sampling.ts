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
  ids: readonly number[];
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
  for (const [i, p] of probabilities.entries()) {
    rest -= p;
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
  const { topK, topP, minP } = options;
  let ids = Array.from(logits.keys());
  if (topK !== undefined && topK < logits.length) {
    const least = logits.slice().sort()[logits.length - topK]!;
    ids = ids.filter((id) => logits[id]! >= least);
  }
  // The greatest logit taken off first, so that no exponential overflows at any temperature.
  const weight = (id: number) => Math.exp((logits[id]! - greatest) / temperature);
  if (topP !== undefined && topP < 1) ids = nucleus(ids, Float64Array.from(ids, weight), topP);
  // The likeliest token's weight is 1.
  if (minP !== undefined && minP > 0) ids = ids.filter((id) => weight(id) >= minP);
  const probabilities = Float64Array.from(ids, weight);
  const total = sum(probabilities);
  for (const i of probabilities.keys()) probabilities[i]! /= total;
  return { ids, probabilities };
}

/** Drops the unlikeliest tokens while what is dropped is at most 1 − p; the likeliest always stays. */
function nucleus(ids: readonly number[], weights: Float64Array, p: number): number[] {
  const ascending = weights.slice().sort();
  const allowance = (1 - p) * sum(weights);
  let dropped = 0;
  for (let gone = 0; dropped < ascending.length - 1; dropped++) {
    gone += ascending[dropped]!;
    if (gone > allowance) break;
  }
  const least = ascending[dropped]!;
  // Among equally likely ones the first go, as in a stable sort.
  let ties = dropped - ascending.indexOf(least);
  return ids.filter((_, i) => weights[i]! > least || (weights[i] === least && ties-- <= 0));
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
  if (broken > 0 || !Number.isFinite(logits[best]!))
    throw new EspalierError(
      "not-finite",
      `The model's logits are not finite numbers (${broken} of ${logits.length} are NaN, the greatest is ${logits[best]}): its weights are damaged, or training has diverged. Go back to an earlier checkpoint.`,
    );
  return best;
}

const sum = (values: Float64Array): number => values.reduce((a, b) => a + b, 0);
