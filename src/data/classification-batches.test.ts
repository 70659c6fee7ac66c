import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import type { HostTensor } from "../runtime/index.ts";
import { type ClassificationBatchOptions, classificationBatches } from "./classification-batches.ts";

const encoded = (lengths: readonly number[]) =>
  lengths.map((length, i) => ({ ids: Array.from({ length }, (_, t) => 100 * (i + 1) + t), label: i % 3, description: `line ${i + 1}` }));
const plain = (tensor: HostTensor | undefined) => Array.from(tensor!.data as BigInt64Array, Number);

test("rows, padding, filler rows and counts, unshuffled", () => {
  const examples = [...encoded([3, 1, 4, 2]), { ids: [9], description: "unlabelled" }];
  const source = classificationBatches(examples, { batchSize: 2, padId: 7, buckets: [2, 4, 8], shuffle: false });
  expect(source.batchesPerEpoch).toBe(3);
  expect([0, 1, 2, 3].map((step) => source.indices(step))).toEqual([
    [1, 3],
    [4, -1],
    [0, 2],
    [1, 3],
  ]);
  const { feeds, ...rest } = source.batch(1);
  expect(rest).toEqual({ tokens: 1, examples: 1, description: "unlabelled" });
  expect([feeds.ids!.shape, plain(feeds.ids)]).toEqual([
    [2, 2],
    [9, 7, 7, 7],
  ]);
  expect([plain(feeds.lengths), plain(feeds.labels)]).toEqual([
    [1, 1],
    [-100, -100],
  ]);
  const last = source.batch(2);
  expect(plain(last.feeds.ids)).toEqual([100, 101, 102, 7, 300, 301, 302, 303]);
  expect([plain(last.feeds.lengths), plain(last.feeds.labels), last.tokens, last.description]).toEqual([
    [3, 4],
    [0, 2],
    7,
    "line 1, line 3",
  ]);
  expect(Object.values(last.feeds).map((feed) => feed.dtype)).toEqual(["int64", "int64", "int64"]);
});

test("every epoch holds every example once, in the smallest bucket that fits; a batch depends on seed and step alone", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 32 }), { minLength: 1, maxLength: 60 }),
      fc.integer({ min: 1, max: 9 }),
      fc.nat(),
      fc.boolean(),
      (lengths, batchSize, seed, shuffle) => {
        const examples = encoded(lengths);
        const options: ClassificationBatchOptions = { batchSize, padId: 0, buckets: [4, 8, 16, 32], seed, shuffle };
        const source = classificationBatches(examples, options);
        for (const epoch of [0, 1, 5]) {
          const seen: number[] = [];
          for (let i = 0; i < source.batchesPerEpoch; i++) {
            const step = epoch * source.batchesPerEpoch + i;
            const { feeds, tokens } = source.batch(step);
            const rows = source.indices(step);
            const time = feeds.ids!.shape[1]!;
            expect(feeds.ids!.shape).toEqual([batchSize, time]);
            const real = rows.filter((index) => index >= 0);
            for (const index of real) expect(options.buckets.find((length) => length >= lengths[index]!)).toBe(time);
            expect(tokens).toBe(real.reduce((sum, index) => sum + lengths[index]!, 0));
            expect(plain(feeds.labels)).toEqual(rows.map((index) => examples[index]?.label ?? -100));
            expect(plain(feeds.lengths)).toEqual(rows.map((index) => lengths[index] ?? 1));
            seen.push(...real);
          }
          expect(seen.sort((a, b) => a - b)).toEqual(examples.map((_, index) => index));
        }
        const step = 3 * source.batchesPerEpoch;
        expect(classificationBatches(examples, options).batch(step)).toEqual(source.batch(step));
      },
    ),
    { numRuns: 100 },
  );
});

test("epochs and seeds differ in rows and in the order of batches", () => {
  const examples = encoded(Array.from({ length: 64 }, (_, i) => 1 + (i % 8)));
  const epoch = (seed: number, number: number) => {
    const source = classificationBatches(examples, { batchSize: 4, padId: 0, buckets: [4, 8], seed });
    const steps = Array.from({ length: source.batchesPerEpoch }, (_, i) => number * source.batchesPerEpoch + i);
    return { rows: steps.map((step) => source.indices(step)), lengths: steps.map((step) => source.batch(step).feeds.ids!.shape[1]) };
  };
  expect(epoch(1, 0)).toEqual(epoch(1, 0));
  expect(epoch(1, 0).rows).not.toEqual(epoch(1, 1).rows);
  expect(epoch(1, 0).lengths).not.toEqual(epoch(1, 1).lengths);
  expect(epoch(1, 0).rows).not.toEqual(epoch(2, 0).rows);
});

describe("what is refused", () => {
  const told = (lengths: number[], options: Partial<ClassificationBatchOptions>) =>
    refusal(() => classificationBatches(encoded(lengths), { batchSize: 2, padId: 0, buckets: [4, 8], ...options })).message;

  test("options and examples, in these words", () => {
    expect(told([1], { batchSize: 0 })).toBe("The batch size is a whole number of examples, at least 1, not 0.");
    for (const buckets of [[], [8, 4], [0, 4], [1.5], [4, 4]]) {
      expect(told([1], { buckets })).toBe(`Buckets are ascending whole lengths such as [64, 128, 256], not [${buckets.join(", ")}].`);
    }
    expect(told([], {})).toBe("There are no examples to make batches of.");
    expect(told([2, 0], {})).toBe("line 2: has no tokens. Remove it, or let the tokenizer add its start token.");
    expect(told([2, 2, 9], {})).toBe("line 3: has 9 tokens, and the largest bucket holds 8. Truncate the examples or add a larger bucket.");
  });
});
