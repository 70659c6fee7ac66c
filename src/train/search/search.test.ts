import { describe, expect, test } from "vitest";
import { Random } from "../../graph/index.ts";
import { LocalExecutor } from "./executor.ts";
import { choice, grid, logUniform, parseDimension, sample, uniform, wholeNumber } from "./space.ts";
import { ranked, rungShares, successiveHalving, type TrialResult } from "./successive-halving.ts";

describe("a space", () => {
  test("a grid has every combination; a range its ends and what lies evenly between", () => {
    expect(grid({ rank: choice(4, 8), rate: logUniform(1e-4, 1e-2) })).toEqual(
      [4, 8].flatMap((rank) => [1e-4, 1e-3, 1e-2].map((rate) => ({ rank, rate: expect.closeTo(rate, 10) }))),
    );
    expect(grid({ a: wholeNumber(1, 2), b: uniform(0, 1) }, 5)).toHaveLength(10);
    expect(grid({ a: wholeNumber(1, 10) }, 4)).toEqual([1, 4, 7, 10].map((a) => ({ a })));
  });

  test("draws are within it, spread over it, and the same for the same seed", () => {
    const space = { rate: logUniform(1e-4, 1), dropout: uniform(0.1, 0.3), rank: wholeNumber(2, 4), name: choice("a", "b") };
    const draws = Array.from({ length: 3000 }, (_, i) => sample(space, new Random(1, i)));
    const share = (of: (values: (typeof draws)[number]) => boolean) => draws.filter(of).length / draws.length;
    expect(share(({ rate }) => (rate as number) < 1e-2)).toBeCloseTo(0.5, 1);
    expect(share(({ dropout }) => (dropout as number) < 0.2)).toBeCloseTo(0.5, 1);
    for (const rank of [2, 3, 4]) expect(share((values) => values.rank === rank)).toBeCloseTo(1 / 3, 1);
    expect(share(({ name }) => name === "a")).toBeCloseTo(0.5, 1);
    expect(
      share(
        ({ rate, dropout }) =>
          (rate as number) >= 1e-4 && (rate as number) <= 1 && (dropout as number) >= 0.1 && (dropout as number) <= 0.3,
      ),
    ).toBe(1);
    expect(sample(space, new Random(1, 7))).toEqual(draws[7]);
  });

  test("is written in an option", () => {
    expect(parseDimension("4, 8,16")).toEqual(choice(4, 8, 16));
    expect(parseDimension("cosine,linear")).toEqual(choice("cosine", "linear"));
    expect(parseDimension("true")).toEqual(choice(true));
    expect(parseDimension("0..0.5")).toEqual(uniform(0, 0.5));
    expect(parseDimension("log:1e-4..1e-2")).toEqual(logUniform(1e-4, 1e-2));
    expect(parseDimension("whole:2..9")).toEqual(wholeNumber(2, 9));
  });

  test.each([
    ["1..1", "from a number to a larger one, not from 1 to 1"],
    ["log:0..1", "begins above 0, not at 0"],
    ["whole:0.5..2", "has whole ends, not 0.5 and 2"],
    ["a..b", "from a number to a larger one"],
  ])("%s is none", (text, message) => expect(() => parseDimension(text)).toThrow(message));
});

describe("successive halving", () => {
  const scores = [0.1, 0.9, 0.5, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4];
  const trained: string[] = [];
  const run = async (trial: number, rung: number): Promise<TrialResult> => {
    trained.push(`${trial}@${rung}`);
    return { trial, rung, score: trial === 5 ? null : scores[trial]!, seconds: 1 };
  };

  test("trains a third further each time, the better ones; a failed trial ranks last", async () => {
    trained.length = 0;
    const results = await successiveHalving({ trials: 9, rungs: [1 / 9, 1 / 3, 1], higherIsBetter: () => true, run });
    expect(trained.slice(9)).toEqual(["1@1", "3@1", "7@1", "1@2"]);
    expect(results).toHaveLength(13);
    expect(
      ranked(
        results.filter((r) => r.rung === 0),
        true,
      ).map((r) => r.trial),
    ).toEqual([1, 3, 7, 2, 8, 4, 6, 0, 5]);
    expect(
      ranked(
        results.filter((r) => r.rung === 0),
        false,
      ).at(-1)!.trial,
    ).toBe(5);
  });

  test("what was known is not computed again, and nothing else changes", async () => {
    const whole = await successiveHalving({ trials: 9, rungs: [1 / 3, 1], higherIsBetter: () => false, run });
    trained.length = 0;
    expect(await successiveHalving({ trials: 9, rungs: [1 / 3, 1], higherIsBetter: () => false, run, known: whole.slice(0, 10) })).toEqual(
      whole,
    );
    expect(trained).toEqual(whole.slice(10).map(({ trial, rung }) => `${trial}@${rung}`));
  });

  test("where all fail, nothing is trained further", async () => {
    const results = await successiveHalving({
      trials: 3,
      rungs: [0.5, 1],
      higherIsBetter: () => true,
      run: async (trial, rung) => ({ trial, rung, score: null, seconds: 0, error: "no" }),
    });
    expect(results.map((r) => r.rung)).toEqual([0, 0, 0]);
  });

  test("rungs are shares of the budget", () => {
    expect(rungShares(3, 0.1)).toEqual([1 / 9, 1 / 3, 1].map((share) => expect.closeTo(share, 12)));
    expect(rungShares(2, 1)).toEqual([1]);
    expect(() => rungShares(1, 0.1)).toThrow("a factor of at least 2");
  });
});

describe("an executor in this process", () => {
  test("does so many jobs at once as it has slots, in their order, also when some fail", async () => {
    let [running, most] = [0, 0];
    const order: number[] = [];
    const executor = new LocalExecutor(
      {
        wait: async ({ n }: { n: number }) => {
          order.push(n);
          most = Math.max(most, ++running);
          await new Promise((resolve) => setTimeout(resolve, 5));
          running--;
          if (n === 2) throw new Error("two");
          return n * n;
        },
      },
      2,
    );
    const results = await Promise.allSettled([0, 1, 2, 3, 4].map((n) => executor.run({ kind: "wait", payload: { n } })));
    expect(results.map((r) => (r.status === "fulfilled" ? r.value : (r.reason as Error).message))).toEqual([0, 1, "two", 9, 16]);
    expect(order).toEqual([0, 1, 2, 3, 4]);
    expect(most).toBe(2);
    await expect(executor.run({ kind: "dance", payload: {} })).rejects.toThrow('Nobody here does "dance"; there is wait.');
  });
});
