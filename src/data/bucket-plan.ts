import { EspalierError, Random } from "../graph/index.ts";
import { rowsOf } from "./choose-buckets.ts";

export interface BucketOptions {
  batchSize: number;
  /** Instead of so many rows, as many as hold no more tokens than this, padding included: short batches have more rows. */
  tokensPerBatch?: number | undefined;
  /** The lengths that batches may have, ascending; the last holds the longest example. */
  buckets: readonly number[];
  seed?: number;
  /** True unless told. */
  shuffle?: boolean;
}

export interface BucketPlan {
  readonly batchesPerEpoch: number;
  /** The length and the rows of a step's batch, and the indices of the examples in them; at most `size`. */
  at(step: number): { length: number; size: number; rows: readonly number[] };
}

/**
 * Which examples make up the batch of a step. The rows of a batch come from one bucket: programs are compiled per shape, and so there are as many
 * shapes as buckets in use. An epoch holds every example once and is a function of (seed, epoch) alone.
 * @param lengths of the examples; each fits the last bucket
 */
export function bucketPlan(
  lengths: readonly number[],
  { batchSize, tokensPerBatch, buckets, seed = 0, shuffle = true }: BucketOptions,
): BucketPlan {
  const refuse = (message: string) => {
    throw new EspalierError("data-batches", message);
  };
  if (!Number.isInteger(batchSize) || batchSize < 1) refuse(`The batch size is a whole number of examples, at least 1, not ${batchSize}.`);
  if (tokensPerBatch !== undefined && !(Number.isInteger(tokensPerBatch) && tokensPerBatch >= 1))
    refuse(`Tokens per batch are a whole number, at least 1, not ${tokensPerBatch}.`);
  if (buckets.length === 0 || buckets.some((length, i) => !Number.isInteger(length) || length <= (buckets[i - 1] ?? 0))) {
    refuse(`Buckets are ascending whole lengths such as [64, 128, 256], not [${buckets.join(", ")}].`);
  }
  if (lengths.length === 0) refuse("There are no examples to make batches of.");
  const sizes = buckets.map((length) => rowsOf(length, { batchSize, tokensPerBatch }));
  const members = buckets.map((): number[] => []);
  for (const [index, length] of lengths.entries()) members[buckets.findIndex((bucket) => length <= bucket)]!.push(index);
  const batchesPerEpoch = members.reduce((total, list, b) => total + Math.ceil(list.length / sizes[b]!), 0);

  const planOf = (epoch: number) => {
    const plan: { length: number; size: number; rows: number[] }[] = [];
    for (const [b, list] of members.entries()) {
      const order = shuffle ? new Random(seed, epoch, b).shuffle([...list]) : list;
      const size = sizes[b]!;
      for (let at = 0; at < order.length; at += size) plan.push({ length: buckets[b]!, size, rows: order.slice(at, at + size) });
    }
    return shuffle ? new Random(seed, epoch).shuffle(plan) : plan;
  };
  // Steps come in order, so the plan of one epoch is enough to remember.
  let latest = { epoch: 0, plan: planOf(0) };
  return {
    batchesPerEpoch,
    at(step) {
      const epoch = Math.floor(step / batchesPerEpoch);
      if (epoch !== latest.epoch) latest = { epoch, plan: planOf(epoch) };
      return latest.plan[step - epoch * batchesPerEpoch]!;
    },
  };
}
