import { EspalierError, Random } from "../graph/index.ts";
import type { Batch, ImmediateBatchSource } from "./batch-source.ts";
import type { RecordStream } from "./record-source.ts";

export interface StreamedBatchOptions<R, E extends { ids: readonly number[]; description: string }> {
  batchSize: number;
  /** The lengths that batches may have, ascending. */
  buckets: readonly number[];
  seed?: number;
  /** About how long a record is, to put those of like length together: a text's characters. */
  size(record: R): number;
  /** Tokenises a record, to at most the last bucket. */
  encode(record: R): E;
  /** Makes the batch of at most `batchSize` examples, each row of `length` tokens. */
  assemble(examples: readonly E[], length: number): Batch;
}

/** So many batches' records are sorted by size, so that little of a batch is padding. */
const poolBatches = 16;

/**
 * Batches of records that are read and tokenised when their batch is due. Sixteen batches' records at a time are sorted by size and cut into batches,
 * which come in a random order; a batch has the smallest of the lengths that holds it. A pure function of the step. Epochs run into one another where the sixteen batches
 * hold records of both.
 */
export function streamedBatches<R, E extends { ids: readonly number[]; description: string }>(
  stream: RecordStream<R>,
  { batchSize, buckets, seed = 0, size, encode, assemble }: StreamedBatchOptions<R, E>,
): ImmediateBatchSource {
  if (!Number.isInteger(batchSize) || batchSize < 1)
    throw new EspalierError("data-batches", `The batch size is a whole number of examples, at least 1, not ${batchSize}.`);
  if (stream.perEpoch === 0) throw new EspalierError("data-batches", "There are no examples to make batches of.");
  let latest: { pool: number; batches: R[][] } | undefined;
  const poolOf = (pool: number) => {
    const count = poolBatches * batchSize;
    const records = Array.from({ length: count }, (_, i) => stream.at(pool * count + i));
    records.sort((a, b) => size(a) - size(b));
    const batches = Array.from({ length: poolBatches }, (_, b) => records.slice(b * batchSize, (b + 1) * batchSize));
    return { pool, batches: new Random(seed, pool).shuffle(batches) };
  };
  return {
    batchesPerEpoch: Math.ceil(stream.perEpoch / batchSize),
    batch(step) {
      const pool = Math.floor(step / poolBatches);
      if (latest?.pool !== pool) latest = poolOf(pool);
      const examples = latest.batches[step - pool * poolBatches]!.map(encode);
      const longest = examples.reduce((a, b) => (b.ids.length > a.ids.length ? b : a));
      const length = buckets.find((bucket) => longest.ids.length <= bucket);
      if (length === undefined)
        throw new EspalierError(
          "data-batches",
          `${longest.description}: has ${longest.ids.length} tokens, and the largest bucket holds ${buckets.at(-1)}. Truncate the examples or add a larger bucket.`,
        );
      return assemble(examples, length);
    },
  };
}
