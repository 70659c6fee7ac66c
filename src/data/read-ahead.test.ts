import { setTimeout } from "node:timers/promises";
import { expect, test } from "vitest";
import type { Batch } from "./batch-source.ts";
import { ReadAhead } from "./read-ahead.ts";

const batch = (step: number): Batch => ({ feeds: {}, tokens: step, examples: 1, description: `batch ${step}` });

test("every batch is asked for once, one ahead of its use, and none after the end", async () => {
  const asked: number[] = [];
  const source = {
    batchesPerEpoch: 9,
    async batch(step: number) {
      asked.push(step);
      await setTimeout(1);
      return batch(step);
    },
  };
  const batches = new ReadAhead(source, 7);
  expect((await batches.take(4)).tokens).toBe(4);
  expect(asked).toEqual([4, 5]);
  expect((await batches.take(5)).tokens).toBe(5);
  expect((await batches.take(6)).tokens).toBe(6);
  expect(asked).toEqual([4, 5, 6]);
});

test("a batch that cannot be made is told of when it is its turn", async () => {
  const source = {
    batchesPerEpoch: 3,
    batch(step: number) {
      if (step === 1) throw new Error("line 7 is broken");
      return batch(step);
    },
  };
  const batches = new ReadAhead(source, 3);
  expect((await batches.take(0)).tokens).toBe(0);
  await setTimeout(1);
  await expect(batches.take(1)).rejects.toThrow("line 7 is broken");
});
