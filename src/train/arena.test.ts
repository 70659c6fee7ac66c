import { expect, test } from "vitest";
import { Arena } from "./arena.ts";

const mb = 2 ** 20;

test("what is freed is used again; what was never written to does not count", () => {
  const arena = new Arena();
  const a = arena.allocate(3 * mb);
  arena.allocate(mb);
  expect(arena.residentBytes).toBe(4 * mb);
  arena.release(a);
  // The first region has four megabytes, of which three were written to; behind the second value there are only three.
  arena.allocate(3.25 * mb);
  expect(arena.residentBytes).toBe(4.25 * mb);
});

test("freed neighbours become one; pieces between values in use are too small for a larger one", () => {
  const arena = new Arena();
  const values = Array.from({ length: 8 }, () => arena.allocate(mb));
  for (const [i, v] of values.entries()) if (i % 2 === 0) arena.release(v);
  const before = arena.residentBytes;
  arena.release(arena.allocate(2 * mb));
  expect(arena.residentBytes).toBe(before + 2 * mb);
  const again = new Arena();
  for (const v of Array.from({ length: 8 }, () => again.allocate(mb))) again.release(v);
  again.allocate(2 * mb);
  expect(again.residentBytes).toBeLessThanOrEqual(9 * mb);
});
