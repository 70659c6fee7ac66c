import { describe, expect, test } from "vitest";
import { checkOp, checkRejects, checkSymbolic, host, ids, numbers, runOnce, sample, type Values, values } from "../../tests/ops/harness.ts";
import { grad } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import { ctcLoss } from "./ctc-loss.ts";
import { sum } from "./reduce.ts";

const [frames, vocabulary] = [5, 4];

/** By the definition: every path of ids, joined and without blanks, and the probabilities of those that spell the labels. */
function byEnumeration(logits: readonly number[], labels: readonly number[], length: number, blank = 0): number {
  const probabilities = Array.from({ length }, (_, t) => {
    const row = logits.slice(t * vocabulary, (t + 1) * vocabulary).map(Math.exp);
    const total = row.reduce((a, b) => a + b);
    return row.map((p) => p / total);
  });
  let total = 0;
  for (let path = 0; path < vocabulary ** length; path++) {
    const ids = Array.from({ length }, (_, t) => Math.floor(path / vocabulary ** t) % vocabulary);
    const spelt = ids.filter((id, t) => id !== blank && id !== ids[t - 1]);
    if (spelt.join() === labels.join()) total += ids.reduce((p, id, t) => p * probabilities[t]![id]!, 1);
  }
  return -Math.log(total);
}

const logits = sample([3, frames, vocabulary], -2, 2, 7);
const row = (i: number) => Array.from(logits.data).slice(i * frames * vocabulary, (i + 1) * frames * vocabulary);
// A repetition, which needs a blank between; a single label; nothing at all.
const targets = ids([3, 3], 1, 1, 3, 2, -100, -100, -100, -100, -100);

async function computed(inputs: Record<string, Values>, fn: (inputs: Record<string, Tensor>) => Record<string, Tensor>) {
  const feeds = Object.fromEntries(Object.entries(inputs).map(([name, v]) => [name, host(v, "float32")]));
  return runOnce("cpu", trace(feeds, fn), feeds);
}

describe("ctcLoss", () => {
  checkOp("over all frames", {
    inputs: { logits, targets },
    fn: (i) => ctcLoss(i.logits, i.targets).losses,
    expected: [byEnumeration(row(0), [1, 1, 3], 5), byEnumeration(row(1), [2], 5), byEnumeration(row(2), [], 5)],
  });

  checkOp("over each sound's frames", {
    inputs: { logits, targets, lengths: ids([3], 4, 3, 1) },
    fn: (i) => ctcLoss(i.logits, i.targets, { lengths: i.lengths }).losses,
    expected: [byEnumeration(row(0), [1, 1, 3], 4), byEnumeration(row(1), [2], 3), byEnumeration(row(2), [], 1)],
  });

  checkOp("with another blank", {
    inputs: { logits, targets: ids([3, 2], 0, 1, 2, 2, 0, -1) },
    fn: (i) => ctcLoss(i.logits, i.targets, { blank: 3 }).losses,
    expected: [byEnumeration(row(0), [0, 1], 5, 3), byEnumeration(row(1), [2, 2], 5, 3), byEnumeration(row(2), [0], 5, 3)],
  });

  checkSymbolic("ctcLoss", {
    inputs: { logits: ["b", "t", vocabulary], targets: ["b", "l"] },
    sizes: [
      { b: 1, t: 4, l: 2 },
      { b: 2, t: 6, l: 1 },
    ],
    make: { targets: (shape) => ids(shape, ...Array.from({ length: shape[0]! * shape[1]! }, (_, i) => 1 + (i % 3))) },
    fn: (i) => ctcLoss(i.logits, i.targets).losses,
  });

  test("a sound with too few frames for its labels counts for nothing, and has no gradient", async () => {
    // 1 1 3 needs four frames, for the blank between; three are there.
    const out = await computed({ logits, targets, lengths: ids([3], 3, 3, 5) }, (i) => {
      const { losses, weights } = ctcLoss(i.logits!, i.targets!, { lengths: i.lengths! });
      return { losses, weights, gradient: grad(sum(losses), [i.logits!])[0]! };
    });
    expect(numbers(out.weights!)).toEqual([0, 1, 1]);
    expect(numbers(out.losses!)[0]).toBe(0);
    expect(numbers(out.gradient!).slice(0, frames * vocabulary)).toEqual(Array(frames * vocabulary).fill(0));
    expect(numbers(out.gradient!).every(Number.isFinite)).toBe(true);
  });

  test("losses and gradients of torch.nn.functional.ctc_loss", async () => {
    const wave = Array.from({ length: 40 }, (_, i) => 2 * Math.sin(-1.3 + (3.2 * i) / 39));
    const inputs = { logits: values([2, 5, 4], wave), targets: ids([2, 3], 1, 1, 3, 2, -100, -100), lengths: ids([2], 5, 4) };
    const out = await computed(inputs, (i) => {
      const { losses } = ctcLoss(i.logits!, i.targets!, { lengths: i.lengths! });
      return { losses, gradient: grad(sum(losses), [i.logits!])[0]! };
    });
    for (const [i, loss] of [5.172491612940768, 3.415202448229337].entries()) expect(numbers(out.losses!)[i]).toBeCloseTo(loss, 5);
    const gradient = numbers(out.gradient!);
    const expected = [0.09441748755103313, -0.6259000041794838, 0.25575884143485955, 0.2757236751935911, -0.51313042272919];
    for (const [i, d] of expected.entries()) expect(gradient[i]).toBeCloseTo(d, 5);
    expect(gradient.slice(-4)).toEqual([0, 0, 0, 0]);
  });

  checkRejects("ctcLoss", { logits: ["float32", 2, 3], targets: ["int64", 2, 3] }, (i) => ctcLoss(i.logits, i.targets), /three axes/);
  checkRejects(
    "ctcLoss",
    { logits: ["float32", 2, 3, 4], targets: ["float32", 2, 3] },
    (i) => ctcLoss(i.logits, i.targets),
    /must be int64/,
  );
});
