import { expect, test } from "vitest";
import { type MemorySettings, memoryAdvice, memoryProposals } from "./memory-advice.ts";

const settings: MemorySettings = {
  batchSize: 8,
  accumulate: 1,
  maxLength: 128,
  rematerialise: false,
  baseDtype: "f32",
  stateDtype: "float32",
};
/** A made-up model: a base, and values by the token. */
const need = async ({ batchSize, accumulate, maxLength, rematerialise, baseDtype }: MemorySettings) => ({
  bytes: (baseDtype === "int8" ? 100 : 400) + batchSize * maxLength! * (rematerialise ? 0.2 : 1),
  seconds: batchSize * accumulate * maxLength! * (rematerialise ? 1.3 : 1) * (baseDtype === "int8" ? 0.9 : 1),
});

test("those that fit come first, the fastest before the others; the rest by what they need", async () => {
  const proposals = await memoryProposals({ settings, frozenBase: true, limit: 700, need });
  const fitting = proposals.filter(({ bytes }) => bytes <= 700);
  expect(fitting.length).toBeGreaterThan(2);
  expect(proposals.slice(0, fitting.length)).toEqual(fitting);
  const whole = fitting.filter((p) => p.settings.maxLength === 128);
  expect(fitting.slice(0, whole.length)).toEqual(whole);
  for (const list of [whole, fitting.slice(whole.length)])
    expect(list.map(({ seconds }) => seconds)).toEqual(list.map(({ seconds }) => seconds).sort((a, b) => a - b));
  const [rest, none] = [proposals.slice(fitting.length), await memoryProposals({ settings, frozenBase: true, limit: 1, need })];
  for (const list of [rest, none]) expect(list.map(({ bytes }) => bytes)).toEqual(list.map(({ bytes }) => bytes).sort((a, b) => a - b));
  expect(proposals.map(({ flags }) => flags)).toContain("--batch-size 2 --accumulate 4");
  expect(fitting.map(({ flags }) => flags)).toContain("--rematerialise");
  expect(proposals.map(({ flags }) => flags)).toContain("--rematerialise --base-dtype int8");
  expect(new Set(proposals.map(({ flags }) => flags)).size).toBe(proposals.length);
});

test("in full training there is no base to keep in fewer bits, and state to keep so", async () => {
  const proposals = await memoryProposals({
    settings: { ...settings, maxLength: undefined },
    frozenBase: false,
    limit: 1,
    need: async () => ({ bytes: 2, seconds: 1 }),
  });
  const all = proposals.map(({ flags }) => flags).join("\n");
  expect(all).not.toMatch(/base-dtype|max-length/);
  expect(all).toMatch(/^--optimizer-options stateDtype=int8$/m);
});

test("a warning only where a step does not fit, with what bounds it", () => {
  expect(memoryAdvice(5e9, { bytes: 6e9, bound: "machine" })).toBeUndefined();
  expect(memoryAdvice(5e9, { bytes: 2e9, bound: "container" })).toMatch(
    /about 5\.0 GB of memory, and this container's limit leaves 2\.0 GB\. .*--rematerialise.*--accumulate/,
  );
});
