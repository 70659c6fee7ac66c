import { expect, test } from "vitest";
import { TimeLimitError, withinTime } from "./time-limit.ts";

test("gives results and errors as they are", () => {
  const value = {};
  expect(withinTime(100, () => value)).toBe(value);
  const error = new RangeError("own");
  expect(() =>
    withinTime(100, () => {
      throw error;
    }),
  ).toThrow(error);
});

test("stops a regular expression that backtracks without an end, after twice the time", () => {
  const start = performance.now();
  expect(() => withinTime(50, () => /^(a+)+$/.test(`${"a".repeat(60)}!`))).toThrow(TimeLimitError);
  expect(performance.now() - start).toBeGreaterThan(99);
  // And what comes next is as fast as before.
  expect(withinTime(50, () => /^(a+)+$/.test("a".repeat(60)))).toBe(true);
});

test("what stood still once is not refused", () => {
  let calls = 0;
  const result = withinTime(50, () => {
    const end = performance.now() + (calls++ === 0 ? 200 : 0);
    while (performance.now() < end);
    return calls;
  });
  expect(result).toBe(2);
});
