import { expect, test } from "vitest";
import type { Batch } from "./batch-source.ts";
import { Mixture, mixBatches } from "./mixture.ts";

const source = (name: string, batchesPerEpoch: number) => ({
  batchesPerEpoch,
  batch: (step: number): Batch => ({ feeds: {}, tokens: 1, examples: 1, description: `${name}${step}` }),
});

test("every source has its share at every moment, to less than a block", () => {
  const shares = [0.7, 0.25, 0.05];
  const mixture = new Mixture(["a", "b", "c"], { a: 14, b: 5, c: 1 }, 3);
  const counts = [0, 0, 0];
  for (let draw = 0; draw < 5000; draw++) {
    const { source: k, nth } = mixture.draw(draw);
    expect(nth).toBe(counts[k]!++);
    // At the end of a block nothing is a whole draw off.
    if (draw % 32 === 31) for (const [i, share] of shares.entries()) expect(Math.abs(counts[i]! - share * (draw + 1))).toBeLessThan(1);
  }
});

test("a function of seed and draw, wherever one asks first", () => {
  const draws = (seed: number) => {
    const mixture = new Mixture(["a", "b"], { a: 1, b: 1 }, seed);
    return Array.from({ length: 200 }, (_, i) => mixture.draw(i));
  };
  const later = new Mixture(["a", "b"], { a: 1, b: 1 }, 1);
  expect(later.draw(150)).toEqual(draws(1)[150]);
  expect(later.draw(3)).toEqual(draws(1)[3]);
  expect(draws(2)).not.toEqual(draws(1));
  // Not in turns.
  const first = draws(1).map(({ source: k }) => k);
  expect(first.filter((k, i) => k === first[i + 1]).length).toBeGreaterThan(60);
});

test("weights that change: what comes later does not touch what was", () => {
  const weights = (draw: number) => (draw < 320 ? { a: 1, b: 0 } : { a: 1, b: 3 });
  const mixture = new Mixture(["a", "b"], weights);
  expect(mixture.drawsBefore(320, 1)).toBe(0);
  expect([mixture.drawsBefore(640, 0), mixture.drawsBefore(640, 1)]).toEqual([400, 240]);
});

test("batches of several sources, epochs counted and repeated", () => {
  const mixed = mixBatches({ mail: { source: source("m", 10), weight: 3 }, chat: { source: source("c", 20) } }, { seed: 5 });
  // All of chat takes 20 / ¼ draws.
  expect(mixed.batchesPerEpoch).toBe(80);
  expect(
    mixBatches({ mail: { source: source("m", 10), weight: 3 }, chat: { source: source("c", 20) } }, { epoch: "first" }).batchesPerEpoch,
  ).toBe(13);
  const steps = Array.from({ length: 320 }, (_, step) => (mixed.batch(step) as Batch).description);
  expect(new Set(steps).size).toBe(320);
  expect(steps.filter((d) => d.startsWith("mail: m"))).toHaveLength(240);
  expect(mixed.epochsBefore(320)).toEqual({ mail: 24, chat: 4 });
  const { name, step } = mixed.sourceAt(7);
  expect(steps[7]).toBe(`${name}: ${name[0]}${step}`);
});

test("sources that answer with promises", async () => {
  const slow = { batchesPerEpoch: 1, batch: async (step: number) => source("s", 1).batch(step) };
  await expect(mixBatches({ slow: { source: slow } }).batch(2)).resolves.toMatchObject({ description: "slow: s2" });
});

test.each([[{ a: 1 }], [{ a: 0, b: 0 }], [{ a: -1, b: 2 }], [{ a: Number.NaN, b: 1 }]])("weights %j", (weights) => {
  expect(() => new Mixture(["a", "b"], weights as never)).toThrow(/Weights are numbers of at least 0/);
});
