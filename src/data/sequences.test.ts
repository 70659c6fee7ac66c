import { expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { truncate } from "./sequences.ts";

const examples = [
  { ids: [1, 2, 3, 4, 5], label: 1, description: "a" },
  { ids: [6, 7], label: 0, description: "b" },
  { ids: [1, 2, 3], description: "c" },
];

test("cuts to the head or the tail and counts what it cut", () => {
  const head = truncate(examples, 3);
  expect(head.truncation).toEqual({ count: 1, of: 3, longest: 5, limit: 3 });
  expect(head.examples).toEqual([{ ids: [1, 2, 3], label: 1, description: "a" }, examples[1], examples[2]]);
  expect(truncate(examples, 3, "tail").examples[0]!.ids).toEqual([3, 4, 5]);
  expect(examples[0]!.ids).toHaveLength(5);
});

test("nothing to cut", () => {
  expect(truncate(examples, 5)).toEqual({ examples, truncation: { count: 0, of: 3, longest: 5, limit: 5 } });
  expect(truncate([], 5).truncation).toEqual({ count: 0, of: 0, longest: 0, limit: 5 });
});

test("a limit that is none", () => {
  for (const limit of [0, 1.5, Number.NaN]) {
    expect(refusal(() => truncate(examples, limit))).toEqual({
      code: "data-limit",
      message: `Sequences are cut to a whole number of tokens, at least 1, not ${limit}.`,
    });
  }
});
