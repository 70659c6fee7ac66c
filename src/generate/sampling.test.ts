import { describe, expect, test } from "vitest";
import { Random } from "../graph/index.ts";
import { distribution, type SamplingOptions, sample } from "./sampling.ts";

/** Logits whose softmax is the given distribution. */
const logitsOf = (...probabilities: number[]) => Float32Array.from(probabilities, Math.log);

/** Probabilities by token; tokens that were filtered out are absent. */
function kept(logits: Float32Array, options: SamplingOptions, seen: number[] = []): Record<number, number> {
  const { ids, probabilities } = distribution(logits.slice(), seen, { temperature: 1, ...options });
  return Object.fromEntries(Array.from(ids, (id, i) => [id, Number(probabilities[i]!.toFixed(4))]));
}

const five = logitsOf(0.1, 0.4, 0.05, 0.25, 0.2);

describe("filters", () => {
  test("none", () => expect(kept(five, {})).toEqual({ 0: 0.1, 1: 0.4, 2: 0.05, 3: 0.25, 4: 0.2 }));

  test("temperature is a power of the probabilities", () => {
    const squares = [0.01, 0.16, 0.0025, 0.0625, 0.04].map((p) => Number((p / 0.275).toFixed(4)));
    expect(Object.values(kept(five, { temperature: 0.5 }))).toEqual(squares);
  });

  test("top-k", () => {
    expect(kept(five, { topK: 2 })).toEqual({ 1: 0.6154, 3: 0.3846 });
    expect(kept(five, { topK: 9 })).toEqual(kept(five, {}));
  });

  test("top-k keeps all that are as likely as the last", () => {
    expect(Object.keys(kept(logitsOf(0.3, 0.2, 0.3, 0.2), { topK: 3 }))).toEqual(["0", "1", "2", "3"]);
  });

  test("top-p keeps the token that crosses p, and no further one", () => {
    expect(kept(five, { topP: 0.6 })).toEqual({ 1: 0.6154, 3: 0.3846 });
    expect(Object.keys(kept(five, { topP: 0.66 }))).toEqual(["1", "3", "4"]);
    expect(Object.keys(kept(five, { topP: 1e-6 }))).toEqual(["1"]);
  });

  test("top-p drops some of equally likely tokens only", () => {
    expect(Object.keys(kept(logitsOf(0.25, 0.25, 0.25, 0.25), { topP: 0.45 }))).toHaveLength(2);
  });

  test("min-p is a share of the likeliest", () => expect(Object.keys(kept(five, { minP: 0.45 }))).toEqual(["1", "3", "4"]));

  test("top-p counts what top-k has left", () => {
    // Of 0.4, 0.25 and 0.2 the likeliest alone has 0.47.
    expect(Object.keys(kept(five, { topK: 3, topP: 0.45 }))).toEqual(["1"]);
    expect(Object.keys(kept(five, { topP: 0.45 }))).toEqual(["1", "3"]);
  });

  test("the temperature comes before top-p", () => {
    expect(Object.keys(kept(five, { topP: 0.6, temperature: 0.5 }))).toEqual(["1", "3"]);
    expect(Object.keys(kept(five, { topP: 0.55, temperature: 0.5 }))).toEqual(["1"]);
  });

  test("the repetition penalty divides positive and multiplies negative logits, each token once", () => {
    const logits = Float32Array.of(2, -2, 2, -2);
    distribution(logits, [0, 0, 1], { temperature: 1, repetitionPenalty: 4 });
    expect([...logits]).toEqual([0.5, -8, 2, -2]);
  });

  test("logits far apart and cold temperatures overflow nothing", () => {
    expect(kept(Float32Array.of(3e4, -3e4, 2.9e4), { temperature: 1e-3, topP: 0.9, minP: 0.01 })).toEqual({ 0: 1 });
  });
});

test("the filters agree with sorting everything, for many distributions", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed);
    // Rounded, so that many are equally likely.
    const logits = Float32Array.from({ length: 30 }, () => Math.round(random.normal() * 4) / 2);
    const [topK, topP] = [1 + random.integer(30), 0.02 + 0.97 * random.uniform()];
    const sorted = [...logits].sort((a, b) => b - a);
    const afterTopK = [...logits.keys()].filter((id) => logits[id]! >= sorted[topK - 1]!);
    const total = afterTopK.reduce((t, id) => t + Math.exp(logits[id]!), 0);
    const ascending = [...afterTopK].sort((a, b) => logits[a]! - logits[b]! || a - b);
    let mass = 0;
    const expected = ascending.filter((id, i) => {
      mass += Math.exp(logits[id]!) / total;
      return mass > 1 - topP + 1e-12 || i === ascending.length - 1;
    });
    const got = Object.keys(kept(logits, { topK, topP })).map(Number);
    expect(got).toEqual(expected.sort((a, b) => a - b));
  }
});

describe("draws", () => {
  const count = (options: SamplingOptions, draws: number) => {
    const random = new Random(11);
    const counts = new Array<number>(five.length).fill(0);
    for (let i = 0; i < draws; i++) counts[sample(five.slice(), [], options, random)]!++;
    return counts;
  };

  test.each<SamplingOptions>([
    { temperature: 1 },
    { temperature: 0.7 },
    { temperature: 1.6, topK: 4 },
    { temperature: 1, topP: 0.8 },
    { temperature: 1, minP: 0.2 },
  ])("%o follows its distribution (chi squared)", (options) => {
    const draws = 20_000;
    const counts = count(options, draws);
    const { ids, probabilities } = distribution(five.slice(), [], options);
    const chiSquared = ids.reduce((x, id, i) => x + (counts[id]! - draws * probabilities[i]!) ** 2 / (draws * probabilities[i]!), 0);
    // 99.9 % of the fair samplers stay below this with 4 degrees of freedom.
    expect(chiSquared).toBeLessThan(18.47);
    expect(counts.reduce((n, c, id) => n + (ids.includes(id) ? 0 : c), 0)).toBe(0);
  });

  test("temperature 0 is greedy whatever the filters, and the first of equals wins", () => {
    expect(count({ topP: 0.1 }, 3)).toEqual([0, 3, 0, 0, 0]);
    expect(sample(Float32Array.of(1, 5, 5), [], { temperature: 0 }, new Random(0))).toBe(1);
  });

  test("greedy obeys the repetition penalty", () => {
    expect(sample(Float32Array.of(1, 3, 2), [1], { repetitionPenalty: 2 }, new Random(0))).toBe(2);
  });

  test("the seed decides", () => {
    const draw = (seed: number) => {
      const random = new Random(seed);
      return Array.from({ length: 40 }, () => sample(five.slice(), [], { temperature: 1 }, random));
    };
    expect(draw(5)).toEqual(draw(5));
    expect(draw(5)).not.toEqual(draw(6));
  });

  test("logits that are not numbers are named", () => {
    expect(() => sample(Float32Array.of(1, Number.NaN), [], {}, new Random(0))).toThrow("not finite numbers (1 of 2 are NaN");
    expect(() => sample(Float32Array.of(Number.NaN, 1), [], { temperature: 1 }, new Random(0))).toThrow("not finite numbers");
    expect(() => sample(Float32Array.of(0, Infinity), [], {}, new Random(0))).toThrow("the greatest is Infinity");
    expect(sample(Float32Array.of(-Infinity, 1), [], { temperature: 1 }, new Random(0))).toBe(1);
  });
});
