import { EspalierError } from "../graph/errors.ts";

export interface ChooseBucketsOptions {
  /** Rows of a batch, or the positions that one may hold: filler rows count as padding too. */
  batchSize?: number;
  tokensPerBatch?: number;
  /** Most lengths, hence compiled programs. Default 8. */
  maxShapes?: number;
  /** Lengths are multiples of this, but for the last where `limit` says otherwise. Default 8. */
  multipleOf?: number;
  /** The longest that a batch may be, where the lengths are known to fit it. */
  limit?: number;
}

export interface ChosenBuckets {
  /** Ascending; the last holds the longest example. */
  buckets: number[];
  /** Share of the positions of an epoch's batches that hold no token, in [0, 1). */
  padding: number;
}

/** A further program must save so much of the positions to be worth compiling. */
const worthwhile = 0.02;

/**
 * The lengths that waste least: of all ways to cut the histogram of lengths into at most `maxShapes` ranges, the one whose batches have the fewest
 * positions (dynamic programming over the lengths that occur, rounded up), with no more shapes than pay.
 * @param lengths of the examples, at least 1 each
 * @throws EspalierError `data-batches`
 */
export function chooseBuckets(lengths: readonly number[], options: ChooseBucketsOptions = {}): ChosenBuckets {
  const { batchSize = 1, tokensPerBatch, maxShapes = 8, multipleOf = 8, limit = Number.POSITIVE_INFINITY } = options;
  for (const [name, value] of Object.entries({ batchSize, maxShapes, multipleOf, tokensPerBatch: tokensPerBatch ?? 1 }))
    if (!Number.isInteger(value) || value < 1)
      throw new EspalierError("data-batches", `${name} is a whole number, at least 1, not ${value}.`);
  if (lengths.length === 0) throw new EspalierError("data-batches", "There are no examples to choose lengths for.");
  // At most 256 candidates, so that long contexts take no longer.
  const longest = lengths.reduce((a, b) => Math.max(a, b), 1);
  const step = multipleOf * Math.ceil(longest / multipleOf / 256);
  const histogram = new Map<number, number>();
  for (const length of lengths) {
    const rounded = Math.min(Math.max(limit, longest), step * Math.max(1, Math.ceil(length / step)));
    histogram.set(rounded, (histogram.get(rounded) ?? 0) + 1);
  }
  const candidates = [...histogram.keys()].sort((a, b) => a - b);
  const upTo = [0];
  for (const length of candidates) upTo.push(upTo.at(-1)! + histogram.get(length)!);
  const cost = (from: number, to: number) => {
    const length = candidates[to - 1]!;
    const rows = rowsOf(length, { batchSize, tokensPerBatch });
    return Math.ceil((upTo[to]! - upTo[from]!) / rows) * rows * length;
  };
  // best[to]: the least positions for the first `to` candidates in so many ranges, and where the last of them begins.
  let best = candidates.map((_, i) => ({ positions: cost(0, i + 1), buckets: [candidates[i]!] }));
  let chosen = best.at(-1)!;
  for (let shapes = 2; shapes <= Math.min(maxShapes, candidates.length); shapes++) {
    best = candidates.map((length, i) => {
      let found = best[i]!;
      for (let from = 1; from <= i; from++) {
        const positions = best[from - 1]!.positions + cost(from, i + 1);
        if (positions < found.positions) found = { positions, buckets: [...best[from - 1]!.buckets, length] };
      }
      return found;
    });
    const next = best.at(-1)!;
    // Each further shape has to pay for itself.
    const more = next.buckets.length - chosen.buckets.length;
    if (next.positions < chosen.positions * (1 - worthwhile * more)) chosen = next;
  }
  const tokens = lengths.reduce((a, b) => a + b, 0);
  return { buckets: chosen.buckets, padding: 1 - tokens / chosen.positions };
}

/** Rows of a batch of that length. */
export const rowsOf = (length: number, { batchSize = 1, tokensPerBatch }: { batchSize?: number; tokensPerBatch?: number }): number =>
  tokensPerBatch === undefined ? batchSize : Math.max(1, Math.floor(tokensPerBatch / length));
