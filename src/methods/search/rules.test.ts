import { describe, expect, test } from "vitest";
import { Random } from "../../graph/index.ts";
import { choice, logUniform, type Space, uniform, wholeNumber } from "../../train/search/space.ts";
import { type Exploit, never, sourceOf, tournament, truncation, tTest } from "./exploit.ts";
import { explored, noise, perturb } from "./explore.ts";
import { welchTest } from "./welch.ts";

const sources = (rule: Exploit, scores: readonly (readonly number[])[], higherIsBetter = true) => {
  const seen = scores.map(() => new Set<number | undefined>());
  for (let draw = 0; draw < 60; draw++)
    for (const member of scores.keys()) seen[member]!.add(sourceOf(rule, member, scores, higherIsBetter, new Random(draw, member)));
  return seen.map((of) => [...of].sort());
};
const newest = (...scores: number[]) => scores.map((score) => [score]);

describe("who copies whom", () => {
  test("truncation: the worst quarter copies the best quarter, each of them some time", () => {
    const scores = newest(0.1, 0.9, 0.5, 0.7, 0.3, 0.8, 0.2, 0.6);
    const none = [undefined];
    expect(sources(truncation(0.25), scores)).toEqual([[1, 5], none, none, none, none, none, [1, 5], none]);
    expect(sources(truncation(0.25), scores, false)).toEqual([none, [0, 6], none, none, none, [0, 6], none, none]);
    // A fifth of eight is one whole member.
    expect(sources(truncation(), scores)[6]).toEqual(none);
  });

  test("a member past measuring copies and is not copied; one member is alone; equals", () => {
    expect(sources(truncation(0.5), newest(Number.NaN, 1))).toEqual([[1], [undefined]]);
    expect(sources(tournament(), newest(Number.NaN, Number.NaN))).toEqual([[undefined], [undefined]]);
    expect(sources(tournament(), newest(1, 1))).toEqual([[undefined], [undefined]]);
    // Truncation ranks equal ones as they stand: so a population of equals still explores.
    expect(sources(truncation(0.5), newest(1, 1))).toEqual([[undefined], [0]]);
    expect(sources(truncation(0.5), newest(Number.NaN, Number.NaN))).toEqual([[undefined], [undefined]]);
    expect(sources(tTest(), [[0.5], [Number.NaN]])).toEqual([[undefined], [0]]);
    expect(sources(truncation(), newest(1))).toEqual([[undefined]]);
    expect(sources(never(), newest(0, 1))).toEqual([[undefined], [undefined]]);
  });

  test("tournament: a better one that was drawn", () => {
    expect(sources(tournament(), newest(1, 2, 3))).toEqual([[1, 2], [2, undefined], [undefined]]);
  });

  test("t-test: only one that is surely better in its last scores", () => {
    const poor = [0.58, 0.6, 0.57, 0.62, 0.59, 0.56];
    const good = [0.61, 0.63, 0.6, 0.65, 0.64];
    expect(sources(tTest({ p: 0.05 }), [poor, good])).toEqual([[1], [undefined]]);
    expect(sources(tTest({ p: 0.01 }), [poor, good])).toEqual([[undefined], [undefined]]);
    // What was before the window does not count.
    expect(sources(tTest({ window: 5 }), [[9, 9, 9, ...poor], good])).toEqual([[1], [undefined]]);
  });

  test("Welch's test has SciPy's p-values (ttest_ind, equal_var=False)", () => {
    expect(welchTest([0.61, 0.63, 0.6, 0.65, 0.64], [0.58, 0.6, 0.57, 0.62, 0.59, 0.56])).toBeCloseTo(0.013688429104666814, 6);
    expect(welchTest([1, 2, 3], [2, 3, 5, 9])).toBeCloseTo(0.17539455602075674, 6);
    expect(welchTest([0.9, 0.91], [0.2, 0.25])).toBeCloseTo(0.018676670124520588, 4);
    expect(welchTest([1, 1], [2, 2])).toBe(0);
    expect(welchTest([1, 1], [1, 1])).toBe(1);
  });
});

describe("how values change", () => {
  const space: Space = {
    rate: logUniform(1e-4, 1e-1),
    dropout: uniform(0, 0.6),
    length: wholeNumber(1, 20),
    loss: choice("a", "b", "c"),
  };
  const start = { rate: 1e-2, dropout: 0.3, length: 5, loss: "b", other: 7 };
  const draws = (rule: Parameters<typeof explored>[0]) =>
    Array.from({ length: 200 }, (_, i) => explored(rule, start, space, new Random(i)));

  test("perturb: a factor of the set, a whole number at least one away, a neighbour", () => {
    const found = draws(perturb({ resampleProbability: 0 }));
    const distinct = (name: keyof typeof start) => [...new Set(found.map((values) => (values as typeof start)[name]))].sort();
    expect(distinct("rate")).toEqual([0.8e-2, 1.2e-2]);
    expect(distinct("dropout")).toEqual([0.3 * 0.8, 0.36]);
    expect(distinct("length")).toEqual([4, 6]);
    expect(distinct("loss")).toEqual(["a", "c"]);
    expect(distinct("other")).toEqual([7]);
    expect(explored(perturb({ factors: [1.2], resampleProbability: 0 }), { ...start, length: 1 }, space, new Random(0)).length).toBe(2);
  });

  test("a quarter is drawn anew", () => {
    const drawn = draws(perturb()).filter(
      ({ rate }) => Math.abs((rate as number) / 1e-2 - 1) > 0.21 || Math.abs((rate as number) / 1e-2 - 1) < 0.19,
    );
    expect(drawn.length / 200).toBeCloseTo(0.25, 1);
  });

  test.each([perturb(), perturb({ factors: [3, 0.2] }), noise(0.5)])("long chains of %o stay within the bounds", (rule) => {
    let values: Readonly<Record<string, unknown>> = start;
    const seen = new Set<unknown>();
    for (let i = 0; i < 500; i++) {
      values = explored(rule, values, space, new Random(i));
      const { rate, dropout, length, loss } = values as typeof start;
      expect(rate >= 1e-4 && rate <= 1e-1 && dropout >= 0 && dropout <= 0.6).toBe(true);
      expect(Number.isInteger(length) && length >= 1 && length <= 20).toBe(true);
      expect(["a", "b", "c"]).toContain(loss);
      seen.add(loss).add(rate);
    }
    expect(seen.size).toBeGreaterThan(100);
  });
});
