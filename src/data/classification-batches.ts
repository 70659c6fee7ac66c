import { EspalierError, Random } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import type { BatchSource } from "./batch-source.ts";
import type { EncodedExample } from "./sequences.ts";

export interface ClassificationBatchOptions {
  batchSize: number;
  /** The token that fills rows up; the model masks it by `lengths`. */
  padId: number;
  /** The lengths that batches may have, ascending; the last holds the longest example. */
  buckets: readonly number[];
  seed?: number;
  /** True unless told. */
  shuffle?: boolean;
}

/**
 * Batches of labelled sequences: `ids` int64 [batch, time] right-padded, `lengths` and `labels` int64 [batch]; −100 is no label.
 *
 * The rows of a batch come from one bucket, and filler rows (length 1, no label) make every batch full: programs are compiled per shape,
 * and so there are as many shapes as buckets in use. An epoch holds every example once and is a function of (seed, epoch) alone.
 */
export function classificationBatches(
  examples: readonly EncodedExample[],
  options: ClassificationBatchOptions,
): BatchSource & {
  /** The index in `examples` of each row, −1 for a filler row. */
  indices(step: number): number[];
} {
  const { batchSize, padId, buckets, seed = 0, shuffle = true } = options;
  checkOptions(examples, options);
  const members = buckets.map((): number[] => []);
  for (const [index, example] of examples.entries()) members[buckets.findIndex((length) => example.ids.length <= length)]!.push(index);
  const batchesPerEpoch = members.reduce((total, list) => total + Math.ceil(list.length / batchSize), 0);

  const planOf = (epoch: number) => {
    const plan: { length: number; rows: number[] }[] = [];
    for (const [b, list] of members.entries()) {
      const order = shuffle ? new Random(seed, epoch, b).shuffle([...list]) : list;
      for (let at = 0; at < order.length; at += batchSize) plan.push({ length: buckets[b]!, rows: order.slice(at, at + batchSize) });
    }
    return shuffle ? new Random(seed, epoch).shuffle(plan) : plan;
  };
  // Steps come in order, so the plan of one epoch is enough to remember.
  let latest = { epoch: 0, plan: planOf(0) };
  const planned = (step: number) => {
    const epoch = Math.floor(step / batchesPerEpoch);
    if (epoch !== latest.epoch) latest = { epoch, plan: planOf(epoch) };
    return latest.plan[step - epoch * batchesPerEpoch]!;
  };

  return {
    batchesPerEpoch,
    indices(step) {
      const { rows } = planned(step);
      return Array.from({ length: batchSize }, (_, row) => rows[row] ?? -1);
    },
    batch(step) {
      const { length, rows } = planned(step);
      const ids = new BigInt64Array(batchSize * length).fill(BigInt(padId));
      const lengths = new BigInt64Array(batchSize).fill(1n);
      const labels = new BigInt64Array(batchSize).fill(-100n);
      let tokens = 0;
      for (const [row, index] of rows.entries()) {
        const example = examples[index]!;
        for (const [t, id] of example.ids.entries()) ids[row * length + t] = BigInt(id);
        lengths[row] = BigInt(example.ids.length);
        labels[row] = BigInt(example.label ?? -100);
        tokens += example.ids.length;
      }
      return {
        feeds: {
          ids: hostTensor("int64", [batchSize, length], ids),
          lengths: hostTensor("int64", [batchSize], lengths),
          labels: hostTensor("int64", [batchSize], labels),
        },
        tokens,
        examples: rows.length,
        description: rows.map((index) => examples[index]!.description).join(", "),
      };
    },
  };
}

function checkOptions(examples: readonly EncodedExample[], { batchSize, buckets }: ClassificationBatchOptions): void {
  const refuse = (message: string) => {
    throw new EspalierError("data-batches", message);
  };
  if (!Number.isInteger(batchSize) || batchSize < 1) refuse(`The batch size is a whole number of examples, at least 1, not ${batchSize}.`);
  if (buckets.length === 0 || buckets.some((length, i) => !Number.isInteger(length) || length <= (buckets[i - 1] ?? 0))) {
    refuse(`Buckets are ascending whole lengths such as [64, 128, 256], not [${buckets.join(", ")}].`);
  }
  if (examples.length === 0) refuse("There are no examples to make batches of.");
  const longest = buckets.at(-1)!;
  for (const { ids, description } of examples) {
    if (ids.length === 0) refuse(`${description}: has no tokens. Remove it, or let the tokenizer add its start token.`);
    if (ids.length > longest) {
      refuse(
        `${description}: has ${ids.length} tokens, and the largest bucket holds ${longest}. Truncate the examples or add a larger bucket.`,
      );
    }
  }
}
