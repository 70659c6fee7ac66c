import { describe, expect, test } from "vitest";
import { checkRejects, checkSymbolic, expectClose, host, ids, sample } from "../../tests/ops/harness.ts";
import { device, providers } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { atPath, type Shape, type Tensor, trace } from "../graph/index.ts";
import type { Program } from "../runtime/device.ts";
import type { RandomKey } from "./index.ts";
import * as ops from "./index.ts";

const scalar = { dtype: "int64", shape: [] } as const;
const key = (seed: number, step: number) => ({ seed: host(ids([], seed), "float32"), step: host(ids([], step), "float32") });

/** A program of draws that takes seed and step, and returns each result as plain numbers. */
async function drawing(provider: string, fn: (key: RandomKey) => Record<string, Tensor>) {
  const traced = trace({ seed: scalar, step: scalar }, fn);
  const program: Program = await (await device(provider)).compile(traced);
  return async (seed: number, step: number): Promise<Record<string, number[]>> => {
    const results = await program.run(key(seed, step));
    return Object.fromEntries(Object.entries(results).map(([k, t]) => [k, Array.from(t.data as Float32Array)]));
  };
}

const total = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);

/** How many standard deviations the number of elements in each of `bins` is off, all together: about normal when uniform. */
function chiSquare(list: readonly number[], bins = 64): number {
  const counts = Array<number>(bins).fill(0);
  for (const v of list) counts[Math.floor(v * bins)]!++;
  const expected = list.length / bins;
  return (total(counts.map((n) => (n - expected) ** 2 / expected)) - (bins - 1)) / Math.sqrt(2 * (bins - 1));
}

/** The correlation of two lists of uniform numbers, in standard deviations. */
const correlation = (a: readonly number[], b: readonly number[]) =>
  (12 * total(a.map((v, i) => (v - 0.5) * (b[i]! - 0.5)))) / Math.sqrt(a.length);

// Seeds are fixed, so none of these can fail by chance; 4 standard deviations is one case in 16 000.
describe("uniform numbers", async () => {
  const [rows, columns] = [200, 300];
  const draw = await drawing("cpu", (k) => ({
    a: ops.uniform([rows, columns], { ...k, site: 1 }),
    b: ops.uniform([rows, columns], { ...k, site: 2 }),
    line: ops.uniform([rows * columns], { ...k, site: 1 }),
    tall: ops.uniform([rows * columns, 1], { ...k, site: 1 }),
  }));
  const { a, b, line, tall } = (await draw(42, 7)) as Record<"a" | "b" | "line" | "tall", number[]>;

  for (const [name, list] of Object.entries({ a, b, line, tall })) {
    test(`${name}: range, mean, variance and spread over the range`, () => {
      expect(Math.min(...list)).toBeGreaterThanOrEqual(0);
      expect(Math.max(...list)).toBeLessThan(1);
      expect(Math.abs(total(list) / list.length - 0.5) * Math.sqrt(12 * list.length)).toBeLessThan(4);
      expect(Math.abs((12 * total(list.map((v) => (v - 0.5) ** 2))) / list.length - 1)).toBeLessThan(0.02);
      expect(Math.abs(chiSquare(list))).toBeLessThan(4);
      // The middle bits, which a poor generator leaves regular.
      expect(Math.abs(chiSquare(list.map((v) => (v * 2 ** 14) % 1)))).toBeLessThan(4);
      for (const lag of [1, 2, 3, 64, columns - 1, columns, columns + 1, 2 * columns])
        expect(Math.abs(correlation(list.slice(0, -lag), list.slice(lag))), `lag ${lag}`).toBeLessThan(4);
    });
  }
  test("rows and columns are not alike: their means spread as independent numbers' do", () => {
    const rowMeans = Array.from({ length: rows }, (_, r) => total(a.slice(r * columns, (r + 1) * columns)) / columns);
    const columnMeans = Array.from({ length: columns }, (_, c) => total(a.filter((_v, i) => i % columns === c)) / rows);
    for (const [means, count] of [
      [rowMeans, columns],
      [columnMeans, rows],
    ] as const) {
      const spread = total(means.map((m) => (m - 0.5) ** 2)) * 12 * count;
      expect(Math.abs(spread - means.length) / Math.sqrt(2 * means.length)).toBeLessThan(4);
    }
    const pairs = Array.from({ length: rows - 1 }, (_, r) =>
      correlation(a.slice(r * columns, (r + 1) * columns), a.slice((r + 1) * columns, (r + 2) * columns)),
    );
    expect(Math.abs(total(pairs.map((z) => z * z)) - pairs.length) / Math.sqrt(2 * pairs.length)).toBeLessThan(4);
  });
  test("sites, steps and seeds give unrelated numbers", async () => {
    expect(Math.abs(correlation(a, b))).toBeLessThan(4);
    for (const [seed, step] of [
      [42, 8],
      [43, 7],
      [7, 42],
      [42 + 2 ** 31, 7],
    ] as const) {
      const other = (await draw(seed, step)).a!;
      expect(other).not.toEqual(a);
      expect(Math.abs(correlation(a, other)), `seed ${seed}, step ${step}`).toBeLessThan(4);
      expect(Math.abs(correlation(a.slice(0, -columns), other.slice(columns))), `seed ${seed}, step ${step}, a row on`).toBeLessThan(4);
    }
  });
  test("the same seed, step and site give the same numbers, in another program too", async () => {
    expect((await draw(42, 7)).a).toEqual(a);
    const again = await drawing("cpu", (k) => ({
      a: ops.uniform([rows, columns], { ...k, site: 1 }),
      twice: ops.uniform([rows, columns], { ...k, site: 1 }),
    }));
    const results = await again(42, 7);
    expect(results.a).toEqual(a);
    expect(results.twice).toEqual(a);
  });
  test("one element over many steps is uniform too", async () => {
    const one = await drawing("cpu", (k) => ({ v: ops.uniform([4], { ...k, site: 3 }) }));
    const list: number[] = [];
    for (let step = 0; step < 2000; step++) list.push((await one(1, step)).v![0]!);
    expect(Math.abs(chiSquare(list, 32))).toBeLessThan(4);
    expect(Math.abs(correlation(list.slice(1), list.slice(0, -1)))).toBeLessThan(4);
  });
});

describe("sites", () => {
  test("default to the module path and the draws made there so far", async () => {
    const paths = await drawing("cpu", (k) => {
      const draw = () => ops.uniform([64], k);
      const [first, second] = atPath("block", () => [draw(), draw()]);
      return { first: first!, second: second!, elsewhere: atPath("other", draw) };
    });
    const alone = await drawing("cpu", (k) => ({
      second: atPath("other", () => ops.uniform([64], k)),
      first: atPath("block", () => ops.uniform([64], k)),
    }));
    const [a, b] = [await paths(1, 2), await alone(1, 2)];
    expect(new Set([a.first, a.second, a.elsewhere].map(String)).size).toBe(3);
    // What else a program draws changes nothing.
    expect(b.first).toEqual(a.first);
    expect(b.second).toEqual(a.elsewhere);
  });
  test("draws of two branches of a gate differ from those around it", async () => {
    const draws = await drawing("cpu", (k) => {
      const gate = ops.equal(ops.cast(k.step, "int32"), 1);
      const before = ops.uniform([8], k);
      const [inside] = ops.when(
        gate,
        () => [ops.uniform([8], k)],
        () => [ops.fill([8], 0)],
      );
      return { before, inside: inside! };
    });
    const { before, inside } = await draws(0, 1);
    expect(inside).not.toEqual(before);
  });
  test("two branches of gates at one path draw different numbers, and so does what follows them", async () => {
    const draws = await drawing("cpu", (k) => {
      const gate = ops.equal(ops.cast(k.step, "int32"), 1);
      const draw = () => [ops.uniform([8], k)];
      const none = () => [ops.fill([8], 0)];
      const [first] = ops.when(gate, draw, none);
      const [second] = ops.when(gate, draw, none);
      const [open] = ops.when(gate, draw, draw);
      const [closed] = ops.when(ops.logicalNot(gate), draw, draw);
      return { first: first!, second: second!, open: open!, closed: closed!, after: draw()[0]! };
    });
    expect(new Set(Object.values(await draws(0, 1)).map(String)).size).toBe(5);
  });
  test("many draws trace in linear time", () => {
    const started = performance.now();
    trace({ seed: scalar, step: scalar }, (k) => {
      for (let i = 0; i < 20_000; i++) ops.uniform([2], k);
      return {};
    });
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});

describe("on every provider", () => {
  const shapes: Shape[] = [[3, 5], [7], [2, 1, 4], []];
  const draws = (k: RandomKey) => ({
    ...Object.fromEntries(shapes.map((shape, i) => [`u${i}`, ops.uniform(shape, { ...k, site: i })])),
    scaled: ops.uniform([16], { ...k, site: 9 }, { low: -2, high: 3 }),
    normal: ops.normal([4, 5], { ...k, site: 10 }),
    mask: ops.bernoulli([4, 5], 0.3, { ...k, site: 11 }),
    never: ops.bernoulli([2], 0, k),
    always: ops.bernoulli([2], 1, k),
  });
  for (const provider of providers) {
    test(`the same bits on ${provider}`, async () => {
      const expected = await (await drawing("cpu", draws))(-5, 2 ** 31 + 3);
      const actual = await (await drawing(provider, draws))(-5, 2 ** 31 + 3);
      for (const name of ["u0", "u1", "u2", "u3", "mask", "never", "always"]) expect(actual[name], name).toEqual(expected[name]);
      expectClose(actual.scaled!, expected.scaled!, 1e-6, "scaled");
      expectClose(actual.normal!, expected.normal!, 1e-5, "normal");
      expect(actual.never).toEqual([0, 0]);
      expect(actual.always).toEqual([1, 1]);
      // Written down once: a release that draws other numbers would break the promise that an old run resumes as it was.
      expect(actual.u0!.slice(0, 3).map((v) => v * 2 ** 24)).toEqual([9929000, 3524024, 7110834]);
    });
  }
});

describe("symbolic sizes", () => {
  checkSymbolic("uniform and dropout", {
    inputs: { x: ["b", "t", 3], seed: [] },
    sizes: [
      { b: 1, t: 2 },
      { b: 3, t: 4 },
    ],
    make: { seed: () => ids([], 11) },
    fn: ({ x, seed }) => [ops.uniform(x.shape, { seed, step: seed, site: 1 }), ops.dropout(x, 0.5, { seed, step: seed, site: 2 })],
  });
});

describe("normal, bernoulli", async () => {
  const draw = await drawing("cpu", (k) => ({
    z: ops.normal([200, 200], { ...k, site: 1 }),
    b: ops.bernoulli([200, 200], 0.1, { ...k, site: 2 }),
  }));
  const { z, b } = (await draw(3, 4)) as { z: number[]; b: number[] };
  test("moments of the normal distribution", () => {
    const moments = [1, 2, 3, 4].map((n) => total(z.map((v) => v ** n)) / z.length);
    // The variance of zⁿ: 1, 2, 15, 96.
    const off = moments.map((m, i) => (m - [0, 1, 0, 3][i]!) / Math.sqrt([1, 2, 15, 96][i]! / z.length));
    for (const deviations of off) expect(Math.abs(deviations)).toBeLessThan(4);
    expect(Math.max(...z.map(Math.abs))).toBeGreaterThan(3.5);
    expect(Math.max(...z.map(Math.abs))).toBeLessThan(6);
  });
  test("share of true", () => expect(Math.abs(total(b) / b.length - 0.1) / Math.sqrt(0.09 / b.length)).toBeLessThan(4));
});

describe("dropout", () => {
  for (const provider of providers) {
    test(`value, mean and gradient through the same mask on ${provider}`, async () => {
      const x = sample([20, 50], 0.5, 1.5);
      const traced = trace({ seed: scalar, step: scalar, x: { dtype: "float32", shape: [20, 50] } }, ({ seed, step, x }) => {
        const y = ops.dropout(x, 0.25, { seed, step, site: 5 });
        return { y, d: grad(ops.sum(y), [x])[0]! };
      });
      const program = await (await device(provider)).compile(traced);
      const run = async (step: number) => {
        const { y, d } = await program.run({ ...key(1, step), x: host(x, "float32") });
        return { y: Array.from(y!.data as Float32Array), d: Array.from(d!.data as Float32Array) };
      };
      const { y, d } = await run(1);
      expectClose(
        y,
        x.data.map((v, i) => v * d[i]!),
        1e-6,
        "value against mask",
      );
      expect(new Set(d.map((v) => v.toFixed(4)))).toEqual(new Set(["0.0000", (4 / 3).toFixed(4)]));
      expect(Math.abs(d.filter((v) => v === 0).length / d.length - 0.25)).toBeLessThan(0.05);
      expect((await run(1)).y).toEqual(y);
      expect((await run(2)).y).not.toEqual(y);
      await program.dispose();
    });
  }
  test("of nothing is the value itself", () => {
    trace({ x: { dtype: "float32", shape: [2] }, seed: scalar, step: scalar }, ({ x, seed, step }) => {
      expect(ops.dropout(x, 0, { seed, step })).toBe(x);
      return {};
    });
  });
  const types = { x: ["float32", 2], seed: ["int64"], step: ["int64"] } as const;
  checkRejects("probability of dropout", types, ({ x, seed, step }) => ops.dropout(x, 1, { seed, step }), /probability in \[0, 1\); got 1/);
  checkRejects(
    "probability of bernoulli",
    types,
    ({ seed, step }) => ops.bernoulli([2], -0.1, { seed, step }),
    /between 0 and 1; got -0.1/,
  );
  checkRejects(
    "seed",
    { ...types, seed: ["float32"] },
    ({ seed, step }) => ops.uniform([2], { seed, step }),
    /seed and step must be one int64 or int32/,
  );
});
