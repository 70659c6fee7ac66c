import { describe, expect, test } from "vitest";
import { checkOp, checkRejects, checkSymbolic, expectClose, host, ids, numbers, runOnce, values } from "../../tests/ops/harness.ts";
import { providers } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { trace } from "../graph/index.ts";
import * as ops from "./index.ts";

const logits = values([3, 4], [1, 2, 3, 4, 0.5, -1, 0, 2, 1, 1, -2, 0.25]);
const logProbabilities = [0, 1, 2].flatMap((r) => {
  const row = logits.data.slice(r * 4, r * 4 + 4);
  const lse = Math.log(row.reduce((t, v) => t + Math.exp(v), 0));
  return row.map((v) => v - lse);
});
const nll = (row: number, target: number, smoothing = 0) => {
  const row4 = logProbabilities.slice(row * 4, row * 4 + 4);
  return -(1 - smoothing) * row4[target]! - (smoothing * row4.reduce((a, b) => a + b)) / 4;
};

describe("crossEntropy", () => {
  checkOp("mean over targets", {
    inputs: { logits, t: ids([3], 3, 0, 1) },
    fn: (i) => ops.crossEntropy(i.logits, i.t),
    expected: [(nll(0, 3) + nll(1, 0) + nll(2, 1)) / 3],
    second: true,
  });
  checkOp("ignored targets do not count", {
    inputs: { logits, t: ids([3], -100, 0, 1) },
    fn: (i) => ops.crossEntropy(i.logits, i.t),
    expected: [(nll(1, 0) + nll(2, 1)) / 2],
  });
  checkOp("another ignored id", {
    inputs: { logits, t: ids([3], 0, 0, 1) },
    fn: (i) => ops.crossEntropy(i.logits, i.t, { ignoreIndex: 0 }),
    expected: [nll(2, 1)],
  });
  checkOp("nothing but ignored targets: zero, and no NaN", {
    inputs: { logits, t: ids([3], -100, -100, -100) },
    fn: (i) => ops.crossEntropy(i.logits, i.t),
    expected: [0],
  });
  for (const provider of providers) {
    for (const labelSmoothing of [0, 0.2]) {
      test(`ignored targets give exactly 0 where classes are masked by −∞, smoothing ${labelSmoothing}, on ${provider}`, async () => {
        const infinite = Number.POSITIVE_INFINITY;
        const rows = [
          [-infinite, 1, 2],
          [5, -infinite, -infinite],
          [1, 2, 3],
          [-infinite, 0, -infinite],
          [0, 0, -infinite],
          [0, -1e30, 1],
        ];
        const traced = trace(
          {
            x: { dtype: "float32", shape: [6, 3] },
            t: { dtype: "int64", shape: [6] },
            w: { dtype: "float32", shape: [6] },
          },
          ({ x, t, w }) => {
            const { losses } = ops.crossEntropyPerTarget(x, t, { labelSmoothing, weights: w });
            const [d, dw] = grad(ops.sum(losses), [x, w]);
            // The gradient's own gradient, through the same rows.
            const [second] = grad(ops.sumOfSquares(d!), [x]);
            return { losses, loss: ops.crossEntropy(x, t, { labelSmoothing, weights: w }), d: d!, dw: dw!, second: second! };
          },
        );
        const { losses, loss, d, dw, second } = await runOnce(provider, traced, {
          x: host(values([6, 3], rows.flat()), "float32"),
          t: host(ids([6], -100, -100, 1, -100, -100, -100), "float32"),
          w: host(values([6], [1, 1, 1, 1, infinite, 1]), "float32"),
        });
        const lse = Math.log(Math.exp(1) + Math.exp(2) + Math.exp(3));
        const counted = lse - 2; // the smoothed target's mean logit is 2 too
        expectClose(numbers(losses!), [0, 0, counted, 0, 0, 0], 1e-6, "losses");
        expectClose(numbers(loss!), [counted], 1e-6, "mean");
        expectClose(numbers(dw!), [0, 0, counted, 0, 0, 0], 1e-6, "gradient for the weights");
        const slopes = [1, 2, 3].map((v, i) => Math.exp(v - lse) - (i === 1 ? 1 - labelSmoothing : 0) - labelSmoothing / 3);
        expectClose(numbers(d!), [...Array<number>(6).fill(0), ...slopes, ...Array<number>(9).fill(0)], 1e-6, "gradient");
        expect(numbers(second!).map((v, i) => (i >= 6 && i < 9 ? Number.isFinite(v) && v !== 0 : v === 0))).toEqual(
          Array<boolean>(18).fill(true),
        );
      });
    }
  }
  checkOp("label smoothing", {
    inputs: { logits, t: ids([3], 3, -100, 1) },
    fn: (i) => ops.crossEntropy(i.logits, i.t, { labelSmoothing: 0.2 }),
    expected: [(nll(0, 3, 0.2) + nll(2, 1, 0.2)) / 2],
    second: true,
  });
  checkOp("weights, per target", {
    inputs: { logits, t: ids([3], 3, 0, -100), w: values([3], [0.5, 2, 7]) },
    fn: (i) => {
      const { losses, weights } = ops.crossEntropyPerTarget(i.logits, i.t, { weights: i.w });
      return [losses, weights, ops.crossEntropy(i.logits, i.t, { weights: i.w })];
    },
    expected: [[0.5 * nll(0, 3), 2 * nll(1, 0), 0], [0.5, 2, 0], [(0.5 * nll(0, 3) + 2 * nll(1, 0)) / 2.5]],
  });
  checkRejects(
    "crossEntropy",
    { x: ["float32", 3, 4], t: ["int64", 4] },
    (i) => ops.crossEntropy(i.x, i.t),
    /shape of the logits without the last axis/,
  );
  checkRejects(
    "weights",
    { x: ["float32", 3, 4], t: ["int64", 3], w: ["float32", 4] },
    (i) => ops.crossEntropy(i.x, i.t, { weights: i.w }),
    /weights/,
  );
  checkSymbolic("crossEntropy", {
    inputs: { logits: ["b", "t", 3], t: ["b", "t"] },
    sizes: [
      { b: 1, t: 3 },
      { b: 2, t: 2 },
    ],
    make: { t: (shape) => ids(shape, ...Array.from({ length: shape[0]! * shape[1]! }, (_, i) => (i % 4 === 3 ? -100 : i % 3))) },
    fn: (i) => ops.crossEntropy(i.logits, i.t, { labelSmoothing: 0.1 }),
  });
});
