import { type HostTensor, hostTensor } from "../runtime/index.ts";
import type { BatchSource } from "./batch-source.ts";
import { type BucketOptions, bucketPlan } from "./bucket-plan.ts";

/** What a batch is made of. */
export interface BatchRows<E> {
  /** The examples of its first rows; the rows after them fill the batch up. */
  examples: readonly E[];
  /** Their places in the list of all examples. */
  indices: readonly number[];
  /** Rows in all. */
  batchSize: number;
  /** The bucket's length. */
  length: number;
  step: number;
}

/**
 * Batches of any examples that have a length, filled as {@link bucketPlan} says.
 *
 * @param feeds makes the inputs of a batch; a promise where it has to read files
 */
export function paddedBatches<E extends { length: number; description: string }>(
  examples: readonly E[],
  options: BucketOptions,
  feeds: (rows: BatchRows<E>) => Readonly<Record<string, HostTensor>> | Promise<Readonly<Record<string, HostTensor>>>,
): BatchSource & {
  /** The index in `examples` of each row, −1 for a row that fills up. */
  indices(step: number): number[];
} {
  const plan = bucketPlan(
    examples.map(({ length }) => length),
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
      const chosen = rows.map((index) => examples[index]!);
      const described = {
        tokens: chosen.reduce((n, example) => n + example.length, 0),
        examples: rows.length,
        description: chosen.map(({ description }) => description).join(", "),
      };
      const made = feeds({ examples: chosen, indices: rows, batchSize: size, length, step });
      return made instanceof Promise ? made.then((feeds) => ({ feeds, ...described })) : { feeds: made, ...described };
    },
  };
}

/** Rows of whole numbers as int64 [batch, length]: right-padded with `fill`, as are the rows that are missing. */
export function paddedRows(rows: readonly (readonly number[])[], batch: number, length: number, fill: number): HostTensor {
  const values = new BigInt64Array(batch * length).fill(BigInt(fill));
  for (const [row, ids] of rows.entries()) for (const [t, id] of ids.entries()) values[row * length + t] = BigInt(id);
  return hostTensor("int64", [batch, length], values);
}

/** int64 [batch, length]: 1 where rows of these lengths have a token. A row that is missing has one, so that its attention has something to see. */
export function paddingMaskRows(lengths: readonly number[], batch: number, length: number): HostTensor {
  return paddedRows(
    Array.from({ length: batch }, (_, row) => new Array<number>(lengths[row] ?? 1).fill(1)),
    batch,
    length,
    0,
  );
}
