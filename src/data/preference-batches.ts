import { EspalierError } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import type { ImmediateBatchSource } from "./batch-source.ts";
import { type BucketOptions, bucketPlan } from "./bucket-plan.ts";
import type { NextTokenExample } from "./sequences.ts";

/** Two answers to one prompt, each with the prompt before it; targets are of the answer only. */
export interface EncodedPreference {
  chosen: Pick<NextTokenExample, "ids" | "targets">;
  rejected: Pick<NextTokenExample, "ids" | "targets">;
  description: string;
}

/**
 * Batches of preferences: `ids` and `targets` int64 [2 · batch, time], right-padded, the chosen ones first and the rejected ones in the same order behind
 * them; targets of −100 do not count. They are filled as {@link bucketPlan} says; filler rows without targets make every batch full.
 */
export function preferenceBatches(
  examples: readonly EncodedPreference[],
  options: BucketOptions & {
    /** The token that fills rows up; nothing looks at it. */
    padId: number;
  },
): ImmediateBatchSource & {
  /** The index in `examples` of each pair. */
  indices(step: number): readonly number[];
} {
  const { batchSize, padId, buckets } = options;
  const lengths = examples.map(({ chosen, rejected }) => Math.max(chosen.ids.length, rejected.ids.length));
  for (const [i, length] of lengths.entries())
    if (length > (buckets.at(-1) ?? 0))
      throw new EspalierError(
        "data-batches",
        `${examples[i]!.description}: has ${length} tokens, and the largest bucket holds ${buckets.at(-1)}. Truncate the answers or add a larger bucket.`,
      );
  const plan = bucketPlan(lengths, options);
  return {
    batchesPerEpoch: plan.batchesPerEpoch,
    indices: (step) => plan.at(step).rows,
    batch(step) {
      const { length, rows } = plan.at(step);
      const shape = [2 * batchSize, length];
      const ids = new BigInt64Array(2 * batchSize * length).fill(BigInt(padId));
      const targets = new BigInt64Array(2 * batchSize * length).fill(-100n);
      let tokens = 0;
      for (const [pair, index] of rows.entries()) {
        const { chosen, rejected } = examples[index]!;
        for (const [row, answer] of [
          [pair, chosen],
          [batchSize + pair, rejected],
        ] as const) {
          for (const [t, id] of answer.ids.entries()) {
            ids[row * length + t] = BigInt(id);
            targets[row * length + t] = BigInt(answer.targets[t]!);
          }
          tokens += answer.ids.length;
        }
      }
      return {
        feeds: { ids: hostTensor("int64", shape, ids), targets: hostTensor("int64", shape, targets) },
        tokens,
        examples: rows.length,
        description: rows.map((index) => examples[index]!.description).join(", "),
      };
    },
  };
}
