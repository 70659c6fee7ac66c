import { expect, test } from "vitest";
import { windowOrder } from "./window-order.ts";

const all = (order: ReturnType<typeof windowOrder>) => Array.from({ length: order.length }, (_, i) => order.at(i));
const chunks = [...Array(50).fill(10), 3];

test.each([1, 25, 100, 503, 10_000])("every record once, with a window of %i", (window) => {
  const order = all(windowOrder(chunks, { seed: 1, epoch: 0, window }));
  expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 503 }, (_, i) => i));
});

test("a function of seed and epoch, wherever one asks first", () => {
  const options = { seed: 1, epoch: 0, window: 60 };
  const order = all(windowOrder(chunks, options));
  const backwards = windowOrder(chunks, options);
  expect(order.map((_, i) => backwards.at(502 - i)).reverse()).toEqual(order);
  expect(all(windowOrder(chunks, { ...options, epoch: 1 }))).not.toEqual(order);
  expect(all(windowOrder(chunks, { ...options, seed: 2 }))).not.toEqual(order);
});

test("a window reads few chunks, each once, from all over the file", () => {
  const order = windowOrder(chunks, { seed: 3, epoch: 0, window: 60 });
  const seen: number[] = [];
  for (let i = 0; i < order.length; i++) {
    const used = order.chunksAt(i);
    expect(used.length).toBeLessThanOrEqual(7);
    expect(used).toContain(Math.floor(order.at(i) / 10));
    if (used[0] !== seen.at(-used.length)) seen.push(...used);
  }
  expect(seen.sort((a, b) => a - b)).toEqual(chunks.map((_, i) => i));
  const first = order.chunksAt(0);
  expect(Math.max(...first) - Math.min(...first)).toBeGreaterThan(20);
});

test("a record is anywhere in the order with equal chance", () => {
  const [window, epochs] = [30, 2000];
  const quarters = [0, 0, 0, 0];
  for (let epoch = 0; epoch < epochs; epoch++) {
    const order = windowOrder(Array(10).fill(10), { seed: 4, epoch, window });
    for (let i = 0; i < 100; i++) if (order.at(i) === 0) quarters[Math.floor(i / 25)]!++;
  }
  // Standard deviation of a quarter: √(2000 · ¼ · ¾) ≈ 19.
  for (const count of quarters) expect(Math.abs(count - epochs / 4)).toBeLessThan(80);
});

test("no records, no window", () => {
  expect(windowOrder([], { seed: 0, epoch: 0, window: 5 }).length).toBe(0);
  expect(() => windowOrder([1], { seed: 0, epoch: 0, window: 0 })).toThrow(/at least 1, not 0/);
});
