import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type ScheduleName, type ScheduleOptions, schedule, scheduleNames } from "./schedules.ts";

const table = (name: ScheduleName, total: number, options = {}) =>
  Array.from({ length: total }, (_, i) => schedule(name, options)(i + 1, total));

describe("factors on the learning rate, by step", () => {
  test.each<[ScheduleName, object, number[]]>([
    ["constant", {}, [1, 1, 1, 1]],
    ["linear", {}, [1, 0.75, 0.5, 0.25]],
    ["linear", { floor: 0.2 }, [1, 0.8, 0.6, 0.4]],
    ["linear", { warmup: 2 }, [0.5, 1, 1, 0.75, 0.5, 0.25]],
    ["linear", { warmup: 1 / 3 }, [0.5, 1, 1, 0.75, 0.5, 0.25]],
    ["constant", { warmup: 4 }, [0.25, 0.5, 0.75, 1, 1]],
    // (1 + cos(π·k/4))/2
    ["cosine", {}, [1, 0.853553, 0.5, 0.146447]],
    ["cosine", { warmup: 1, floor: 0.1 }, [1, 1, 0.775, 0.325]],
  ])("%s %o", (name, options, expected) => {
    for (const [i, factor] of table(name, expected.length, options).entries()) expect(factor).toBeCloseTo(expected[i]!, 5);
  });

  test.each<ScheduleName>(["constant", "linear", "cosine"])("%s: a run of one step trains at the full rate", (name) => {
    expect(table(name, 1)).toEqual([1]);
    expect(table(name, 1, { warmup: 0.05 })).toEqual([1]);
  });

  test("no step has the rate 0, however long the warm-up", () => {
    for (const name of ["linear", "cosine"] as const)
      for (const warmup of [0, 1, 5, 10, 20]) for (const factor of table(name, 10, { warmup })) expect(factor).toBeGreaterThan(0);
  });

  test("a negative warm-up and a floor above 1 are refused", () => {
    expect(() => schedule("linear", { warmup: -1 })).toThrow(/warmup ≥ 0/);
    expect(() => schedule("linear", { floor: 2 })).toThrow(/floor between 0 and 1/);
  });
});

test("after the warm-up the factors are transformers'", () => {
  const { total, warmup, factors } = (
    JSON.parse(readFileSync("tests/fixtures/optimizers.json", "utf8")) as {
      schedules: { total: number; warmup: number; factors: Record<string, number[]> };
    }
  ).schedules;
  const options: Record<string, ScheduleOptions> = {
    "cosine-restarts": { cycles: 3 },
    polynomial: { floor: 0.1 },
    wsd: { decay: 10, floor: 0.05 },
    "wsd linear": { decay: 0.25, decayShape: "linear" },
  };
  expect(new Set(Object.keys(factors).map((name) => name.split(" ")[0]))).toEqual(new Set(scheduleNames));
  for (const [name, expected] of Object.entries(factors)) {
    const ours = schedule(name.split(" ")[0] as ScheduleName, { warmup, ...options[name] });
    for (let step = warmup + 1; step <= total; step++) expect(ours(step, total), `${name} ${step}`).toBeCloseTo(expected[step - 1]!, 6);
  }
});
