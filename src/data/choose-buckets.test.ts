import { expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { Random } from "../graph/index.ts";
import { chooseBuckets } from "./choose-buckets.ts";

test("two lengths take two shapes, one takes one", () => {
  expect(chooseBuckets([8, 8, 64, 64])).toEqual({ buckets: [8, 64], padding: 0 });
  expect(chooseBuckets([60, 60, 61])).toEqual({ buckets: [64], padding: 1 - 181 / 192 });
  expect(chooseBuckets([8, 8, 64, 64], { maxShapes: 1 }).buckets).toEqual([64]);
});

test("filler rows count: a batch that is not full is no bargain", () => {
  // Apart 8 rows of 8 and 8 rows of 16 make 192 places; together 8 rows of 16 make 128.
  expect(chooseBuckets([8, 8, 16, 16], { batchSize: 8 }).buckets).toEqual([16]);
});

test("a limit that is no multiple is the last length", () => {
  expect(chooseBuckets([50, 50], { limit: 50 }).buckets).toEqual([50]);
});

test("no choice of as many shapes wastes less (all choices tried)", () => {
  const random = new Random(5);
  for (let round = 0; round < 20; round++) {
    const lengths = Array.from({ length: 40 }, () => 1 + random.integer(80));
    const candidates = [...new Set(lengths.map((n) => 8 * Math.ceil(n / 8)))].sort((a, b) => a - b);
    const longest = candidates.at(-1)!;
    const padded = (buckets: readonly number[]) => lengths.reduce((sum, n) => sum + buckets.find((b) => n <= b)!, 0);
    const choices = (count: number, from: readonly number[]): number[][] =>
      count === 0 ? [[]] : from.flatMap((first, i) => choices(count - 1, from.slice(i + 1)).map((rest) => [first, ...rest]));
    const { buckets, padding } = chooseBuckets(lengths, { maxShapes: 3 });
    const least = Math.min(...choices(buckets.length - 1, candidates.slice(0, -1)).map((c) => padded([...c, longest])));
    expect(padded(buckets)).toBe(least);
    expect(padding).toBeCloseTo(1 - lengths.reduce((a, b) => a + b, 0) / least);
  }
});

test("texts of log-normal lengths: eight shapes leave little padding, in a moment", () => {
  const random = new Random(6);
  const lengths = Array.from({ length: 100_000 }, () => Math.min(4096, Math.max(1, Math.round(Math.exp(5 + random.normal())))));
  const started = performance.now();
  const { buckets, padding } = chooseBuckets(lengths, { batchSize: 16, limit: 4096 });
  expect(performance.now() - started).toBeLessThan(2000);
  expect(buckets.length).toBeLessThanOrEqual(8);
  expect(padding).toBeLessThan(0.3);
  expect(padding).toBeLessThan(chooseBuckets(lengths, { maxShapes: 3 }).padding);
});

test("a budget of tokens makes short batches taller", () => {
  expect(chooseBuckets([8, 8, 8, 8, 64], { tokensPerBatch: 64 })).toEqual({ buckets: [8, 64], padding: 1 - 96 / 128 });
});

test("what makes no sense", () => {
  expect(refusal(() => chooseBuckets([])).code).toBe("data-batches");
  expect(refusal(() => chooseBuckets([1], { maxShapes: 0 })).message).toContain("maxShapes is a whole number, at least 1, not 0");
});
