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
  checkSymbolic("rmsNorm", {
    inputs: { x: ["b", "t", 4], w: [4] },
    sizes: [
      { b: 1, t: 2 },
      { b: 3, t: 1 },
    ],
    fn: (i) => ops.rmsNorm(i.x, i.w),
  });
});
