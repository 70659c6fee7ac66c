import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { Random } from "../graph/random.ts";
import { nearDuplicateGroups } from "./near-duplicates.ts";
import type { Example } from "./records.ts";
import { splitExamples } from "./split.ts";

const random = new Random(7);
const sentence = (count = 30) => Array.from({ length: count }, () => `w${random.integer(5000)}`).join(" ");
const example = (text: string, label: string | undefined, line: number): Example => ({ text, label, file: "mail.jsonl", line });
const lines = (examples: Example[]) => examples.map((e) => e.line);

describe("splitting", () => {
  const examples = Array.from({ length: 200 }, (_, i) => example(sentence(), i % 4 === 0 ? "spam" : "ham", i + 1));

  test("holds out the same share of every label, in the order of the list", () => {
    const { train, heldOut, duplicatesRemoved } = splitExamples(examples);
    expect([train.length, heldOut.length, duplicatesRemoved]).toEqual([160, 40, 0]);
    expect(heldOut.filter((e) => e.label === "spam").length).toBe(10);
    expect(lines([...train, ...heldOut]).sort((a, b) => a - b)).toEqual(lines(examples));
    for (const part of [train, heldOut]) expect(lines(part)).toEqual(lines(part).sort((a, b) => a - b));
  });

  test("depends on the seed alone", () => {
    const held = (seed?: number) => lines(splitExamples(examples, { seed }).heldOut);
    expect(held(3)).toEqual(held(3));
    expect(held()).toEqual(held(0));
    expect(held(3)).not.toEqual(held(4));
  });

  test("removes repeated examples; the same text under another label stays in the same part", () => {
    const twice = [...examples, ...examples.slice(0, 5), { ...examples[0]!, label: "ham", line: 999 }];
    const { train, heldOut, duplicatesRemoved } = splitExamples(twice);
    expect(duplicatesRemoved).toBe(5);
    const holder = [train, heldOut].find((part) => part.some((e) => e.line === 1))!;
    expect(lines(holder)).toContain(999);
  });

  test("near-duplicates never stand in both parts", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(30), fc.nat(3), fc.constantFrom("a", "b", "c")), { minLength: 2, maxLength: 60 }),
        fc.double({ min: 0.05, max: 0.95, noNaN: true }),
        fc.nat(),
        (drawn, share, seed) => {
          const bases = Array.from({ length: 31 }, (_, i) => Array.from({ length: 60 }, (_, t) => `b${i}t${t}`).join(" "));
          const list = drawn.map(([base, end, label], i) => example(`${bases[base]} end${end}`, label, i));
          if (new Set(drawn.map(([base]) => base)).size < 2) return;
          const { train, heldOut, duplicatesRemoved } = splitExamples(list, { heldOut: share, seed });
          expect(train.length + heldOut.length + duplicatesRemoved).toBe(list.length);
          expect(train.length * heldOut.length).toBeGreaterThan(0);
          const groups = nearDuplicateGroups([...train, ...heldOut].map((e) => e.text));
          const trained = new Set(groups.slice(0, train.length));
          for (const group of groups.slice(train.length)) expect(trained.has(group)).toBe(false);
        },
      ),
      { numRuns: 200 },
    );
  });

  test("a share of 0 holds nothing out; small labels stand in both parts where they can", () => {
    expect(splitExamples(examples, { heldOut: 0 }).heldOut).toEqual([]);
    const small = [example("one two", "x", 1), example("three four", "x", 2), example("five six", "y", 3)];
    const { train, heldOut } = splitExamples(small);
    expect([lines(train).length, lines(heldOut).length, train.some((e) => e.label === "y")]).toEqual([2, 1, true]);
  });

  test("a label that consists of two large groups is measured all the same", () => {
    const family = (base: string, count: number, from: number) =>
      Array.from({ length: count }, (_, i) => example(`${base} end${i}`, "spam", from + i));
    const list = [...family(sentence(60), 50, 1), ...family(sentence(60), 40, 51)];
    expect(splitExamples(list).heldOut.length).toBe(40);
  });

  test("what cannot be split", () => {
    const told = (list: Example[], heldOut?: number) => refusal(() => splitExamples(list, { heldOut })).message;
    expect(told([])).toBe(
      "There are no examples to hold out. Give more examples, or measure on examples of another file (--eval-data of espalier train).",
    );
    expect(told([example("a", "x", 1)])).toBe(
      "mail.jsonl: its only example has no independent part to hold out. Give more examples, or measure on examples of another file (--eval-data of espalier train).",
    );
    expect(told([example("a b", "x", 1), example("A b.", "x", 2)])).toBe(
      "mail.jsonl: its 2 examples are near-duplicates of one another and have no independent part to hold out. Give more examples, or measure on examples of another file (--eval-data of espalier train).",
    );
    expect(told(examples, 1)).toBe("The held-out share is a number from 0 to below 1, not 1. 0.2 holds out every fifth example.");
  });
});
