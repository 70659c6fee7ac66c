import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, sample, values } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

describe("rmsNorm", () => {
  const x = sample([2, 2, 3], -2, 2);
  const weight = values([3], [1, 0.5, -2]);
  const expected = x.data.map((v, i) => {
    const row = x.data.slice(i - (i % 3), i - (i % 3) + 3);
    return (v / Math.sqrt(row.reduce((t, w) => t + w * w, 0) / 3 + 1e-2)) * weight.data[i % 3]!;
  });
  checkOp("over the last axis", { inputs: { x, weight }, fn: (i) => ops.rmsNorm(i.x, i.weight, 1e-2), expected, second: true });
  checkRejects(
    "rmsNorm",
    { x: ["float32", 2, 3], w: ["float32", 2] },
    (i) => ops.rmsNorm(i.x, i.w),
    /weight must be as long as the last axis/,
  );
  checkRejects(
    "rmsNorm of another dtype",
    { x: ["float16", 2, 3], w: ["float32", 3] },
    (i) => ops.rmsNorm(i.x, i.w),
    /RMSNorm.*weight must have the dtype of x/,
  );
  checkSymbolic("rmsNorm", {
    inputs: { x: ["b", "t", 4], w: [4] },
    sizes: [
      { b: 1, t: 2 },
      { b: 3, t: 1 },
    ],
    fn: (i) => ops.rmsNorm(i.x, i.w),
  });
});

/** Each run of `length` neighbours normalised, then scaled and shifted by the functions of the element's index. */
function normalized(
  data: readonly number[],
  length: number,
  epsilon: number,
  scale: (i: number) => number,
  shift: (i: number) => number,
): number[] {
  return data.map((v, i) => {
    const run = data.slice(i - (i % length), i - (i % length) + length);
    const center = run.reduce((a, b) => a + b) / length;
    const variance = run.reduce((t, w) => t + (w - center) ** 2, 0) / length;
    return ((v - center) / Math.sqrt(variance + epsilon)) * scale(i) + shift(i);
  });
}

describe("layerNorm", () => {
  const x = sample([2, 2, 3], -2, 2);
  const weight = values([3], [1, 0.5, -2]);
  const bias = values([3], [0.25, -1, 0]);
  const expected = normalized(
    x.data,
    3,
    1e-2,
    (i) => weight.data[i % 3]!,
    (i) => bias.data[i % 3]!,
  );
  checkOp("over the last axis", {
    inputs: { x, weight, bias },
    fn: (i) => ops.layerNorm(i.x, i.weight, i.bias, 1e-2),
    expected,
    second: true,
  });
  checkOp("without bias", {
    inputs: { x, weight },
    fn: (i) => ops.layerNorm(i.x, i.weight, undefined, 1e-2),
    expected: normalized(
      x.data,
      3,
      1e-2,
      (i) => weight.data[i % 3]!,
      () => 0,
    ),
  });
  const wide = sample([2, 3], 0.5, 1.5, 5);
  checkOp("over two axes", {
    inputs: { x, weight: wide, bias: sample([2, 3]) },
    fn: (i) => ops.layerNorm(i.x, i.weight, i.bias, 1e-2),
    expected: normalized(
      x.data,
      6,
      1e-2,
      (i) => wide.data[i % 6]!,
      (i) => sample([2, 3]).data[i % 6]!,
    ),
    second: true,
  });
  checkOp("of numbers far from zero", {
    inputs: { x: values([1, 4], [1000, 1001, 1002, 1003]), weight: values([4], [1, 1, 1, 1]) },
    fn: (i) => ops.layerNorm(i.x, i.weight),
    expected: normalized(
      [0, 1, 2, 3],
      4,
      1e-5,
      () => 1,
      () => 0,
    ),
    gradient: false,
  });
  checkRejects("layerNorm", { x: ["float32", 2, 3], w: ["float32", 2] }, (i) => ops.layerNorm(i.x, i.w), /shape of the last axes of x/);
  checkRejects(
    "bias",
    { x: ["float32", 2, 3], w: ["float32", 3], b: ["float32", 2] },
    (i) => ops.layerNorm(i.x, i.w, i.b),
    /bias must have the shape of the weight/,
  );
  checkSymbolic("layerNorm", {
    inputs: { x: ["b", "t", 4], w: [4], b: [4] },
    sizes: [
      { b: 1, t: 2 },
      { b: 3, t: 1 },
    ],
    fn: (i) => ops.layerNorm(i.x, i.w, i.b),
  });
});

describe("groupNorm", () => {
  const x = sample([2, 4, 3], -2, 2);
  const weight = sample([4], 0.5, 1.5);
  const bias = sample([4], -1, 1, 2);
  const channel = (i: number) => Math.floor(i / 3) % 4;
  checkOp("of two groups", {
    inputs: { x, weight, bias },
    fn: (i) => ops.groupNorm(i.x, 2, i.weight, i.bias, 1e-2),
    expected: normalized(
      x.data,
      6,
      1e-2,
      (i) => weight.data[channel(i)]!,
      (i) => bias.data[channel(i)]!,
    ),
    second: true,
  });
  checkRejects("groups", { x: ["float32", 2, 4, 3] }, (i) => ops.groupNorm(i.x, 3), /channels do not fall into 3 equal groups/);
  checkRejects("weight", { x: ["float32", 2, 4, 3], w: ["float32", 3] }, (i) => ops.groupNorm(i.x, 2, i.w), /one element per channel/);
  checkSymbolic("groupNorm", {
    inputs: { x: ["b", 4, "h", 2], w: [4] },
    sizes: [
      { b: 1, h: 2 },
      { b: 2, h: 3 },
    ],
    fn: (i) => ops.groupNorm(i.x, 2, i.w),
  });
});
