import fc from "fast-check";
import { expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import type { HostTensor } from "../runtime/index.ts";
import { languageBatches } from "./language-batches.ts";

const plain = (tensor: HostTensor | undefined) => Array.from(tensor!.data as BigInt64Array, Number);

test("windows and filler, unshuffled", () => {
  const source = languageBatches(Uint16Array.of(10, 11, 12, 13, 14, 15), { batchSize: 2, sequenceLength: 2, shuffle: false });
  expect(source.batchesPerEpoch).toBe(2);
  const [first, second] = [source.batch(0), source.batch(1)];
  expect([first.feeds.ids!.shape, first.feeds.ids!.dtype, first.feeds.targets!.dtype]).toEqual([[2, 2], "int64", "int64"]);
  expect([plain(first.feeds.ids), plain(first.feeds.targets)]).toEqual([
    [10, 11, 12, 13],
    [11, 12, 13, 14],
  ]);
  expect([plain(second.feeds.ids), plain(second.feeds.targets)]).toEqual([
    [14, 0, 0, 0],
    [15, -100, -100, -100],
  ]);
  expect([first.tokens, first.examples, second.tokens, second.examples]).toEqual([4, 2, 1, 1]);
  expect(first.description).toBe("windows of 2 tokens at 0, 2");
});

test("a text shorter than a window gives one", () => {
  const source = languageBatches(Int32Array.of(5, 70_000, 7), { batchSize: 1, sequenceLength: 8 });
  expect(source.batchesPerEpoch).toBe(1);
  expect(plain(source.batch(0).feeds.ids)).toEqual([5, 70_000, 0, 0, 0, 0, 0, 0]);
  expect(plain(source.batch(41).feeds.targets)).toEqual([70_000, 7, -100, -100, -100, -100, -100, -100]);
});

test("every epoch holds every target once; a batch depends on seed and step alone", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 200 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 20 }),
      fc.nat(),
      fc.boolean(),
      (length, batchSize, sequenceLength, seed, shuffle) => {
        const tokens = Int32Array.from({ length }, (_, i) => i);
        const options = { batchSize, sequenceLength, seed, shuffle };
        const source = languageBatches(tokens, options);
        for (const epoch of [0, 1, 4]) {
          const seen: number[] = [];
          for (let i = 0; i < source.batchesPerEpoch; i++) {
            const { feeds, tokens } = source.batch(epoch * source.batchesPerEpoch + i);
            const [ids, targets] = [plain(feeds.ids), plain(feeds.targets)];
            const real = targets.flatMap((target, at) => (target === -100 ? [] : [at]));
            for (const at of real) expect(targets[at]).toBe(ids[at]! + 1);
            expect(tokens).toBe(real.length);
            seen.push(...real.map((at) => targets[at]!));
          }
          expect(seen.sort((a, b) => a - b)).toEqual(Array.from(tokens.subarray(1)));
        }
        const step = 3 * source.batchesPerEpoch;
        expect(languageBatches(tokens, options).batch(step)).toEqual(source.batch(step));
      },
    ),
    { numRuns: 100 },
  );
});

test("epochs and seeds differ in order", () => {
  const tokens = Uint16Array.from({ length: 1000 }, (_, i) => i);
  const starts = (seed: number, step: number) =>
    languageBatches(tokens, { batchSize: 50, sequenceLength: 10, seed }).batch(step).description;
  expect(starts(1, 0)).toBe(starts(1, 0));
  expect(starts(1, 0)).not.toBe(starts(1, 2));
  expect(starts(1, 0)).not.toBe(starts(2, 0));
});

test("what is refused, in these words", () => {
  const told = (count: number, batchSize = 1, sequenceLength = 4) =>
    refusal(() => languageBatches(new Uint16Array(count), { batchSize, sequenceLength })).message;
  expect(told(0)).toBe("The text has no tokens, but next-token prediction needs at least 2. Give a longer text.");
  expect(told(1)).toBe("The text has 1 token, but next-token prediction needs at least 2. Give a longer text.");
  expect(told(9, 0)).toBe("The batch size is a whole number, at least 1, not 0.");
  expect(told(9, 1, 2.5)).toBe("The sequence length is a whole number, at least 1, not 2.5.");
});
