import { EspalierError } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import type { Batch, ImmediateBatchSource } from "./batch-source.ts";
import { type BucketOptions, bucketPlan } from "./bucket-plan.ts";
import type { EncodedExample } from "./sequences.ts";

export interface ClassificationBatchOptions extends BucketOptions {
  /** The token that fills rows up; the model masks it by `lengths`. */
  padId: number;
}

/**
 * Batches of labelled sequences: `ids` int64 [batch, time] right-padded, `lengths` and `labels` int64 [batch]; −100 is no label.
 *
 * They are filled as {@link bucketPlan} says; filler rows (length 1, no label) make every batch full.
 */
export function classificationBatches(
  examples: readonly EncodedExample[],
  options: ClassificationBatchOptions,
): ImmediateBatchSource & {
  /** The index in `examples` of each row, −1 for a filler row. */
  indices(step: number): number[];
} {
  const { padId } = options;
  checkLengths(examples, options.buckets);
  const plan = bucketPlan(
    examples.map(({ ids }) => ids.length),
    options,
  );

  return {
    batchesPerEpoch: plan.batchesPerEpoch,
    indices(step) {
      const { size, rows } = plan.at(step);
      return Array.from({ length: size }, (_, row) => rows[row] ?? -1);
    },
    batch(step) {
      const { length, size, rows } = plan.at(step);
      return classificationBatch(
        rows.map((index) => examples[index]!),
        { rows: size, length, padId },
      );
    },
  };
}

/** A batch of these examples, as {@link classificationBatches} makes them, of so many rows and tokens per row. */
export function classificationBatch(
  examples: readonly EncodedExample[],
  { rows, length, padId }: { rows: number; length: number; padId: number },
): Batch {
  const ids = new BigInt64Array(rows * length).fill(BigInt(padId));
  const lengths = new BigInt64Array(rows).fill(1n);
  const labels = new BigInt64Array(rows).fill(-100n);
  let tokens = 0;
  for (const [row, example] of examples.entries()) {
    for (const [t, id] of example.ids.entries()) ids[row * length + t] = BigInt(id);
    lengths[row] = BigInt(example.ids.length);
    labels[row] = BigInt(example.label ?? -100);
    tokens += example.ids.length;
  }
  return {
    feeds: {
      ids: hostTensor("int64", [rows, length], ids),
      lengths: hostTensor("int64", [rows], lengths),
      labels: hostTensor("int64", [rows], labels),
    },
    tokens,
    examples: examples.length,
    description: examples.map(({ description }) => description).join(", "),
  };
}

function checkLengths(examples: readonly EncodedExample[], buckets: readonly number[]): void {
  const longest = buckets.at(-1) ?? 0;
  for (const { ids, description } of examples) {
    if (ids.length === 0)
      throw new EspalierError("data-batches", `${description}: has no tokens. Remove it, or let the tokenizer add its start token.`);
    if (longest > 0 && ids.length > longest)
      throw new EspalierError(
        "data-batches",
        `${description}: has ${ids.length} tokens, and the largest bucket holds ${longest}. Truncate the examples or add a larger bucket.`,
      );
  }
}
