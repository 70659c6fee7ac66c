import { EspalierError, Random } from "../graph/index.ts";
import { type HostTensor, hostTensor } from "../runtime/index.ts";
import type { ImmediateBatchSource } from "./batch-source.ts";

export interface EncodedPair {
  /** As many in every example. */
  texts: readonly (readonly number[])[];
  score?: number;
  description: string;
}

export interface PairBatchOptions {
  batchSize: number;
  /** The token that fills rows up; the mask hides it. */
  padId: number;
  /** The lengths that a column of a batch may have, ascending; the last holds the longest text. */
  buckets: readonly number[];
  seed?: number;
  /** True unless told. */
  shuffle?: boolean;
}

/**
 * Batches of texts in columns: `ids0`, `attentionMask0`, `ids1`, … int64 [batch, time], each column right-padded to a length of its own. For pairs with
 * scores `scores` and `weights` float32 [batch]. For the others `labels` int64 [batch], each row's own number, and `excluded` bool [batch, candidates], true
 * where a candidate is no negative of the row's anchor: it is the same text as the row's positive, or the positive of the same anchor, or none.
 *
 * A batch is drawn from all examples, whatever their length: negatives must not be told by it. Filler rows (weight 0, label −100) make the last one full.
 */
export function textPairBatches(examples: readonly EncodedPair[], options: PairBatchOptions): ImmediateBatchSource {
  const { batchSize, padId, buckets, seed = 0, shuffle = true } = options;
  if (!Number.isInteger(batchSize) || batchSize < 1)
    throw new EspalierError("data-batches", `The batch size is a whole number of examples, at least 1, not ${batchSize}.`);
  if (examples.length === 0) throw new EspalierError("data-batches", "There are no pairs to make batches of.");
  const columns = examples[0]!.texts.length;
  for (const { texts, description } of examples)
    for (const ids of texts)
      if (ids.length === 0 || ids.length > buckets.at(-1)!)
        throw new EspalierError("data-batches", `${description}: a text has ${ids.length} tokens, and 1 to ${buckets.at(-1)} can be read.`);
  const scored = examples[0]!.score !== undefined;
  const batchesPerEpoch = Math.ceil(examples.length / batchSize);
  const orderOf = (epoch: number): number[] => {
    const order = [...examples.keys()];
    return shuffle ? new Random(seed, epoch).shuffle(order) : order;
  };
  let latest = { epoch: 0, order: orderOf(0) };

  return {
    batchesPerEpoch,
    batch(step) {
      const epoch = Math.floor(step / batchesPerEpoch);
      if (epoch !== latest.epoch) latest = { epoch, order: orderOf(epoch) };
      const start = (step - epoch * batchesPerEpoch) * batchSize;
      const rows = latest.order.slice(start, start + batchSize).map((index) => examples[index]!);
      const feeds: Record<string, HostTensor> = {};
      for (let c = 0; c < columns; c++)
        Object.assign(
          feeds,
          column(
            rows.map(({ texts }) => texts[c]!),
            c,
          ),
        );
      return {
        feeds: { ...feeds, ...(scored ? scoresOf(rows) : candidatesOf(rows)) },
        tokens: rows.reduce((n, { texts }) => n + texts.reduce((m, ids) => m + ids.length, 0), 0),
        examples: rows.length,
        description: rows.map(({ description }) => description).join(", "),
      };
    },
  };

  function column(texts: readonly (readonly number[])[], number: number): Record<string, HostTensor> {
    const longest = Math.max(...texts.map((ids) => ids.length));
    const length = buckets.find((bucket) => bucket >= longest)!;
    const ids = new BigInt64Array(batchSize * length).fill(BigInt(padId));
    const mask = new BigInt64Array(batchSize * length);
    for (let row = 0; row < batchSize; row++)
      // A filler row is a copy of the first: a row without any token has no vector.
      for (const [t, id] of (texts[row] ?? texts[0]!).entries()) {
        ids[row * length + t] = BigInt(id);
        mask[row * length + t] = 1n;
      }
    const shape = [batchSize, length];
    return { [`ids${number}`]: hostTensor("int64", shape, ids), [`attentionMask${number}`]: hostTensor("int64", shape, mask) };
  }

  function scoresOf(rows: readonly EncodedPair[]): Record<string, HostTensor> {
    const [scores, weights] = [new Float32Array(batchSize), new Float32Array(batchSize)];
    for (const [row, { score }] of rows.entries()) {
      scores[row] = score!;
      weights[row] = 1;
    }
    return { scores: hostTensor("float32", [batchSize], scores), weights: hostTensor("float32", [batchSize], weights) };
  }

  function candidatesOf(rows: readonly EncodedPair[]): Record<string, HostTensor> {
    const labels = BigInt64Array.from({ length: batchSize }, (_, row) => (row < rows.length ? BigInt(row) : -100n));
    const width = batchSize * (columns - 1);
    const excluded = new Uint8Array(batchSize * width);
    const texts = rows.map((row) => row.texts.map((ids) => ids.join()));
    for (let row = 0; row < batchSize; row++)
      for (let candidate = 0; candidate < width; candidate++) {
        const [of, which] = [candidate % batchSize, 1 + Math.floor(candidate / batchSize)];
        if (of === row && which === 1) continue;
        const [own, other] = [texts[row], texts[of]];
        if (!other || (own && (other[which] === own[1] || (which === 1 && other[0] === own[0])))) excluded[row * width + candidate] = 1;
      }
    return {
      labels: hostTensor("int64", [batchSize], labels),
      excluded: hostTensor("bool", [batchSize, width], excluded),
    };
  }
}
