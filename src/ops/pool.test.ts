import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, sample, values } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

const row = values([1, 1, 5], [1, 4, 2, 3, -5]);
const image = values([1, 1, 3, 4], [1, 5, 2, 0, 3, 4, -1, 6, 7, -2, 8, 9]);

describe("maxPool", () => {
  checkOp("of a row, with a rest", { inputs: { x: row }, fn: ({ x }) => ops.maxPool1d(x, 2), expected: [4, 3] });
  checkOp("overlapping and padded", {
    inputs: { x: row },
    fn: ({ x }) => ops.maxPool1d(x, 3, { stride: 1, padding: 1 }),
    expected: [4, 4, 4, 3, 3],
  });
  checkOp("never finds the padding", {
    inputs: { x: values([1, 1, 2], [-3, -4]) },
    fn: ({ x }) => ops.maxPool1d(x, 2, { stride: 1, padding: 1 }),
    expected: [-3, -3, -4],
  });
  checkOp("of images and channels", {
    inputs: { x: sample([2, 2, 3, 4]) },
    fn: ({ x }) => ops.maxPool2d(x, [2, 2], { stride: 1 }),
    expected: windows(sample([2, 2, 3, 4]).data, (list) => Math.max(...list)),
    second: true,
  });
  checkRejects("maxPool2d", { x: ["float32", 1, 4, 4] }, (i) => ops.maxPool2d(i.x, 2), /x needs 4 axes/);
  checkRejects("padding", { x: ["float32", 1, 1, 4] }, (i) => ops.maxPool1d(i.x, 2, { padding: 2 }), /more than half the kernel/);
  checkRejects("size", { x: ["float32", 1, 1, 4] }, (i) => ops.maxPool1d(i.x, 5), /a window of 5 does not fit spatial axis 0/);
  checkSymbolic("maxPool", {
    inputs: { x: ["b", 2, "t"] },
    sizes: [
      { b: 1, t: 3 },
      { b: 2, t: 5 },
    ],
    fn: ({ x }) => ops.maxPool1d(x, 2, { stride: 1 }),
  });
});

describe("averagePool", () => {
  checkOp("of a row, with a rest", { inputs: { x: row }, fn: ({ x }) => ops.averagePool1d(x, 2), expected: [2.5, 2.5], second: true });
  checkOp("padded, counted", {
    inputs: { x: image },
    fn: ({ x }) => ops.averagePool2d(x, 2, { padding: 1 }),
    expected: [0.25, 1.75, 0, 2.5, 2.25, 3.75],
  });
  checkOp("padded, not counted", {
    inputs: { x: image },
    fn: ({ x }) => ops.averagePool2d(x, 2, { padding: 1, countPadding: false }),
    expected: [1, 3.5, 0, 5, 2.25, 7.5],
  });
  checkOp("of images and channels", {
    inputs: { x: sample([2, 2, 3, 4]) },
    fn: ({ x }) => ops.averagePool2d(x, [2, 2], { stride: 1 }),
    expected: windows(sample([2, 2, 3, 4]).data, (list) => list.reduce((a, b) => a + b) / 4),
  });
  checkRejects("averagePool1d", { x: ["float32", 1, 4] }, (i) => ops.averagePool1d(i.x, 2), /x needs 3 axes/);
  checkSymbolic("averagePool", {
    inputs: { x: ["b", 2, "t"] },
    sizes: [
      { b: 1, t: 3 },
      { b: 2, t: 5 },
    ],
    fn: ({ x }) => ops.averagePool1d(x, 3, { stride: 1, padding: 1, countPadding: false }),
  });
});

/** 2×2 windows with stride 1 over four images of 3×4. */
function windows(data: readonly number[], combine: (list: number[]) => number): number[] {
  return [0, 1, 2, 3].flatMap((n) =>
    [0, 1].flatMap((r) => [0, 1, 2].map((c) => combine([0, 1, 4, 5].map((o) => data[n * 12 + r * 4 + c + o]!)))),
  );
}
