import { expect, test } from "vitest";
import { EspalierError } from "../src/graph/index.ts";
import { attempt, attemptAsync, tally } from "./fuzz.ts";

const demands = { names: "model.bin", bytes: 1000 };
const refuse = () => {
  throw new EspalierError("broken", "dir/model.bin: broken");
};

test("results and refusals that name the file pass, and are told apart", async () => {
  expect(attempt(demands, () => 1)).toBe("succeeded");
  expect(attempt(demands, refuse)).toBe("refused");
  expect(await attemptAsync(demands, async () => refuse())).toBe("refused");
});

test("what a parser must not do fails", async () => {
  const crash = () => {
    throw new TypeError("undefined is not a function");
  };
  expect(() => attempt(demands, crash)).toThrow(TypeError);
  await expect(attemptAsync(demands, async () => crash())).rejects.toThrow(TypeError);
  expect(() => attempt({ ...demands, names: "other.bin" }, refuse)).toThrow(/other\.bin/);
  const hang = () => {
    const start = process.cpuUsage();
    let spun = 0;
    while (process.cpuUsage(start).user < 1.1e6) for (let i = 0; i < 1e6; i++) spun += Math.sqrt(i);
    return spun;
  };
  expect(() => attempt(demands, hang)).toThrow(/seconds of the processor/);
  const kept: unknown[] = [];
  expect(() => attempt(demands, () => kept.push(new Uint8Array(5 * demands.bytes + 65536)))).toThrow(/bytes of buffers/);
  expect(() => attempt(demands, () => kept.push(Array.from({ length: 2e6 }, () => ({}))))).toThrow(/bytes of objects/);
});

test("a property that never refuses, or always, is found out", () => {
  const outcomes = tally();
  outcomes.count("refused");
  expect(() => outcomes.expectBoth()).toThrow(/successes/);
  outcomes.count("succeeded");
  outcomes.expectBoth();
});
