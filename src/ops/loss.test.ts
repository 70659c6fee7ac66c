import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, ids, values } from "../../tests/ops/harness.ts";
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
