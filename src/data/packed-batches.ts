import { EspalierError, Random } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import type { ImmediateBatchSource } from "./batch-source.ts";
import { packRows } from "./packing-plan.ts";
import type { EncodedExample, NextTokenExample, Truncation } from "./sequences.ts";

/**
 * Documents as examples of next-token prediction: every token but the first is a target once. What is longer than `limit` is split into parts, each of
 * which is then read without what stood before it, or with `longer: "truncate"` loses its end. Documents of fewer than two tokens predict nothing and
 * are left out. Whoever calls tells the counts: nothing is dropped silently.
 */
export function documentExamples(
  documents: readonly EncodedExample[],
  limit: number,
  longer: "split" | "truncate" = "split",
): { examples: NextTokenExample[]; truncation: Truncation; tooShort: number } {
  if (!Number.isInteger(limit) || limit < 1)
    throw new EspalierError("data-limit", `Documents are cut to a whole number of tokens, at least 1, not ${limit}.`);
  const truncation: Truncation = { count: 0, of: documents.length, longest: 0, limit };
  let tooShort = 0;
  const examples = documents.flatMap(({ ids, description }) => {
    const count = ids.length - 1;
    truncation.longest = Math.max(truncation.longest, count);
    if (count > limit) truncation.count++;
    if (count < 1) tooShort++;
    const parts = longer === "split" ? Math.ceil(count / limit) : Math.min(1, count);
    return Array.from({ length: Math.max(0, parts) }, (_, part): NextTokenExample => {
      const [from, to] = [part * limit, Math.min(count, (part + 1) * limit)];
      const where = parts > 1 ? `${description}, tokens ${from + 1}–${to}` : description;
      return { ids: ids.slice(from, to), targets: ids.slice(from + 1, to + 1), description: where };
    });
  });
  return { examples, truncation, tooShort };
}

export interface PackedBatchOptions {
  /** Rows of a batch. */
  batchSize: number;
  /** Tokens of a row; the longest example fits. */
  sequenceLength: number;
  /** The token that fills rows up. What it is makes no difference. Default 0. */
  padId?: number;
  seed?: number;
  /** True unless told. */
  shuffle?: boolean;
}

export interface PackedBatchSource extends ImmediateBatchSource {
  /** Rows of an epoch; the last batch is filled up with empty ones. */
  readonly rows: number;
  /** The share of an epoch's places that hold no token, from 0 to 1. */
  readonly padding: number;
}

/**
 * Batches whose rows hold several examples one after the other: `ids`, `targets` and `documentStarts`, int64 [batch, time]; the last is the column in
 * which each token's example begins, from which the model tells examples apart and counts positions. Targets of −100 do not count.
 *
 * All batches have one shape. An epoch holds every example once and is a function of (seed, epoch) alone: which lengths share a row is the same in
 * all epochs ({@link packRows}), which examples of these lengths changes, and so does the order of the rows.
 */
export function packedBatches(examples: readonly NextTokenExample[], options: PackedBatchOptions): PackedBatchSource {
  const { batchSize, sequenceLength, padId = 0, seed = 0, shuffle = true } = options;
  checkOptions(options);
  if (examples.length === 0) throw new EspalierError("data-batches", "There are no examples to make batches of.");
  for (const { ids, targets, description } of examples) {
    if (ids.length >= 1 && ids.length <= sequenceLength && targets.length === ids.length) continue;
    const why =
      targets.length !== ids.length
        ? `${ids.length} tokens and ${targets.length} targets, of which there must be as many`
        : `${ids.length} tokens, and a row holds from 1 to ${sequenceLength}; split or truncate longer ones`;
    throw new EspalierError("data-batches", `${description}: has ${why}.`);
  }
  const lengths = examples.map(({ ids }) => ids.length);
  const rows = packRows(lengths, sequenceLength);
  const alike = new Map<number, number[]>();
  for (const [index, length] of lengths.entries()) {
    const known = alike.get(length);
    if (known) known.push(index);
    else alike.set(length, [index]);
  }
  const batchesPerEpoch = Math.ceil(rows.length / batchSize);
  const used = lengths.reduce((n, length) => n + length, 0);

  const planOf = (epoch: number): readonly (readonly number[])[] => {
    if (!shuffle) return rows;
    const standIn = new Map<number, number>();
    for (const [length, indices] of alike)
      for (const [i, index] of new Random(seed, epoch, length).shuffle([...indices]).entries()) standIn.set(indices[i]!, index);
    return new Random(seed, epoch).shuffle(rows.map((row) => row.map((index) => standIn.get(index)!)));
  };
  // Steps come in order, so the plan of one epoch is enough to remember.
  let latest = { epoch: 0, plan: planOf(0) };

  return {
    batchesPerEpoch,
    rows: rows.length,
    padding: 1 - used / (batchesPerEpoch * batchSize * sequenceLength),
    batch(step) {
      const epoch = Math.floor(step / batchesPerEpoch);
      if (epoch !== latest.epoch) latest = { epoch, plan: planOf(epoch) };
      const first = (step - epoch * batchesPerEpoch) * batchSize;
      const size = batchSize * sequenceLength;
      const ids = new BigInt64Array(size).fill(BigInt(padId));
      const targets = new BigInt64Array(size).fill(-100n);
      const starts = new BigInt64Array(size);
      const members = latest.plan.slice(first, first + batchSize);
      let tokens = 0;
      for (const [row, indices] of members.entries()) {
        let column = 0;
        for (const index of indices) {
          const example = examples[index]!;
          const at = row * sequenceLength + column;
          for (const [t, id] of example.ids.entries()) {
            ids[at + t] = BigInt(id);
            targets[at + t] = BigInt(example.targets[t]!);
          }
          starts.fill(BigInt(column), at, at + example.ids.length);
          column += example.ids.length;
        }
        // What is left over is a document of its own, which nothing else sees.
        starts.fill(BigInt(column), row * sequenceLength + column, (row + 1) * sequenceLength);
        tokens += column;
      }
      const packed = members.flat();
      const tensor = (values: BigInt64Array) => hostTensor("int64", [batchSize, sequenceLength], values);
      return {
        feeds: { ids: tensor(ids), targets: tensor(targets), documentStarts: tensor(starts) },
        tokens,
        examples: packed.length,
        description: fewOf(packed.map((index) => examples[index]!.description)),
      };
    },
  };
}

/** A row alone may hold dozens of examples. */
const fewOf = (descriptions: readonly string[]): string =>
  [...descriptions.slice(0, 8), ...(descriptions.length > 8 ? [`and ${descriptions.length - 8} more`] : [])].join(", ");

function checkOptions({ batchSize, sequenceLength }: PackedBatchOptions): void {
  for (const [name, value] of Object.entries({ "batch size": batchSize, "sequence length": sequenceLength }))
    if (!Number.isInteger(value) || value < 1)
      throw new EspalierError("data-batches", `The ${name} is a whole number, at least 1, not ${value}.`);
}
