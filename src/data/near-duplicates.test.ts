import { describe, expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { Random } from "../graph/random.ts";
import { nearDuplicateGroups } from "./near-duplicates.ts";

const words = (random: Random, count: number, vocabulary = 5000) => Array.from({ length: count }, () => `w${random.integer(vocabulary)}`);

/** `shared` words of the text, then others: of n shingles each, s are shared, so the similarity is s / (2n − s). */
const variant = (random: Random, base: string[], shared: number) => [...base.slice(0, shared), ...words(random, base.length - shared)];

describe("near-duplicate groups", () => {
  test("case and punctuation do not count; a fifth of other words does", () => {
    const base = "the quick brown fox jumps over the lazy dog and then runs into the dark green forest";
    const texts = [base, "Something else entirely, with nothing in common at all.", base.toUpperCase().replaceAll(" ", ", ")];
    expect(nearDuplicateGroups(texts)).toEqual([0, 1, 0]);
  });

  test("short texts are linked only when their words are the same; texts without words by their signs", () => {
    expect(nearDuplicateGroups(["good film", "Good film!", "good movie", "", "!!!", "???", "!!!"])).toEqual([0, 0, 1, 2, 3, 4, 3]);
    expect(nearDuplicateGroups([])).toEqual([]);
  });

  test("pairs above the threshold are found, pairs below are not", () => {
    const random = new Random(1);
    for (let round = 0; round < 200; round++) {
      const base = words(random, 104);
      // 100 shingles each; 86 shared give 0.754, 78 give 0.639.
      const texts = [base, variant(random, base, 90), variant(random, base, 82)].map((list) => list.join(" "));
      expect(nearDuplicateGroups(texts.slice(0, 2))).toEqual([0, 0]);
      expect(nearDuplicateGroups([texts[0]!, texts[2]!])).toEqual([0, 1]);
    }
  });

  test("the same as comparing every pair, at other thresholds too", () => {
    const random = new Random(2);
    const texts: string[] = [];
    for (let family = 0; family < 12; family++) {
      const base = words(random, 64);
      for (let member = 0; member < 6; member++) texts.push(variant(random, base, 20 + random.integer(45)).join(" "));
    }
    for (const threshold of [0.3, 0.5, 0.7, 0.9, 1]) expect(nearDuplicateGroups(texts, threshold)).toEqual(pairwise(texts, threshold));
  });

  test("chains are one group: near-duplicates of near-duplicates stay together", () => {
    const random = new Random(3);
    const stream = words(random, 300);
    const texts = Array.from({ length: 10 }, (_, i) => stream.slice(i * 10, i * 10 + 104).join(" "));
    expect(new Set(nearDuplicateGroups(texts)).size).toBe(1);
    expect(nearDuplicateGroups([texts[0]!, texts[9]!])).toEqual([0, 1]);
  });

  test("a mailing of 3000 variants and 3000 other texts take seconds", () => {
    const random = new Random(4);
    const base = words(random, 400);
    const texts = Array.from({ length: 6000 }, (_, i) => (i % 2 ? [...base, `n${i}`] : words(random, 400)).join(" "));
    const start = performance.now();
    const groups = nearDuplicateGroups(texts);
    expect(performance.now() - start).toBeLessThan(10_000);
    expect(new Set(groups).size).toBe(3001);
  });

  test("a threshold that is none", () => {
    for (const threshold of [0, 1.5, Number.NaN]) {
      expect(refusal(() => nearDuplicateGroups(["a"], threshold))).toEqual({
        code: "data-threshold",
        message: `The near-duplicate threshold is a similarity above 0 and at most 1, not ${threshold}.`,
      });
    }
  });
});

/** The definition, word for word: connected components over every pair, with the shingles themselves instead of hashes. */
function pairwise(texts: string[], threshold: number): number[] {
  const sets = texts.map((text) => {
    const list = text.split(" ");
    return new Set(Array.from({ length: list.length - 4 }, (_, i) => list.slice(i, i + 5).join(" ")));
  });
  const group = texts.map((_, i) => i);
  for (const [i, a] of sets.entries()) {
    for (const [j, b] of sets.entries()) {
      const shared = [...a].filter((shingle) => b.has(shingle)).length;
      if (shared / (a.size + b.size - shared) < threshold) continue;
      const [from, to] = [Math.max(group[i]!, group[j]!), Math.min(group[i]!, group[j]!)];
      for (const k of group.keys()) if (group[k] === from) group[k] = to;
    }
  }
  const numbers = [...new Set(group)];
  return group.map((g) => numbers.indexOf(g));
}
