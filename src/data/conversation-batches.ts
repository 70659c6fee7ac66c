import { EspalierError } from "../graph/index.ts";
import type { EncodedConversation } from "../inputs/index.ts";
import { hostTensor } from "../runtime/index.ts";
import type { Batch, ImmediateBatchSource } from "./batch-source.ts";
import { type BucketOptions, bucketPlan } from "./bucket-plan.ts";
import type { NextTokenExample, Truncation } from "./sequences.ts";

/**
 * Examples of at most `limit` ids. Conversations longer than that lose their end, and one of which nothing is left that the assistant says is
 * dropped. Whoever calls tells the counts: nothing is cut silently.
 */
export function conversationExamples(
  encoded: readonly (EncodedConversation & { description: string })[],
  limit: number,
): { examples: NextTokenExample[]; truncation: Truncation; withoutTarget: number } {
  if (!Number.isInteger(limit) || limit < 1)
    throw new EspalierError("data-limit", `Sequences are cut to a whole number of tokens, at least 1, not ${limit}.`);
  const truncation: Truncation = { count: 0, of: encoded.length, longest: 0, limit };
  const examples = encoded.flatMap(({ ids, assistant, description }) => {
    // The last id is only ever a target.
    truncation.longest = Math.max(truncation.longest, ids.length - 1);
    if (ids.length - 1 > limit) truncation.count++;
    const length = Math.min(ids.length - 1, limit);
    const targets = Array.from({ length: Math.max(0, length) }, (_, t) => (assistant[t + 1] ? ids[t + 1]! : -100));
    return targets.every((target) => target === -100) ? [] : [{ ids: ids.slice(0, length), targets, description }];
  });
  return { examples, truncation, withoutTarget: encoded.length - examples.length };
}

export interface ConversationBatchOptions extends BucketOptions {
  /** The token that fills rows up. What it is makes no difference: nothing looks at what stands to its right, and it has no target. */
  padId: number;
}

/**
 * Batches of conversations: `ids` and `targets`, int64 [batch, time], right-padded; targets of −100 do not count. They are filled as
 * {@link bucketPlan} says; filler rows without targets make every batch full.
 */
export function conversationBatches(examples: readonly NextTokenExample[], options: ConversationBatchOptions): ImmediateBatchSource {
  const { padId, buckets } = options;
  const longest = buckets.at(-1) ?? 0;
  for (const { ids, description } of examples)
    if (longest > 0 && ids.length > longest)
      throw new EspalierError(
        "data-batches",
        `${description}: has ${ids.length} tokens, and the largest bucket holds ${longest}. Truncate the conversations or add a larger bucket.`,
      );
  const plan = bucketPlan(
    examples.map(({ ids }) => ids.length),
    options,
  );
  return {
    batchesPerEpoch: plan.batchesPerEpoch,
    batch(step) {
      const { length, size, rows } = plan.at(step);
      return conversationBatch(
        rows.map((index) => examples[index]!),
        { rows: size, length, padId },
      );
    },
  };
}

/** A batch of these examples, as {@link conversationBatches} makes them, of so many rows and tokens per row. */
export function conversationBatch(
  examples: readonly NextTokenExample[],
  { rows, length, padId }: { rows: number; length: number; padId: number },
): Batch {
  const ids = new BigInt64Array(rows * length).fill(BigInt(padId));
  const targets = new BigInt64Array(rows * length).fill(-100n);
  let tokens = 0;
  for (const [row, example] of examples.entries()) {
    for (const [t, id] of example.ids.entries()) {
      ids[row * length + t] = BigInt(id);
      targets[row * length + t] = BigInt(example.targets[t]!);
    }
    tokens += example.ids.length;
  }
  const shape = [rows, length];
  return {
    feeds: { ids: hostTensor("int64", shape, ids), targets: hostTensor("int64", shape, targets) },
    tokens,
    examples: examples.length,
    description: examples.map(({ description }) => description).join(", "),
  };
}
