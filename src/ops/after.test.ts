import { checkOp, checkRejects, ids, vector } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

const x = vector(1.5, -0, Number.POSITIVE_INFINITY);
checkOp("after: the value, whatever is waited for", {
  inputs: { x, awaited: vector(Number.NaN, 1) },
  fn: (i) => ops.after(i.x, i.awaited),
  expected: x.data,
  gradient: false,
});
checkOp("after: the gradient passes, and none goes to what is waited for", {
  inputs: { x: vector(1, -2), awaited: vector(3) },
  fn: (i) => ops.mul(ops.after(i.x, i.awaited), i.x),
  expected: [1, 4],
  second: true,
});
checkOp("after: whole numbers, of any rank", {
  inputs: { x: ids([], 7), awaited: vector(3) },
  fn: (i) => ops.after(i.x, i.awaited),
  expected: [7],
});
checkRejects(
  "after: waiting for whole numbers",
  { x: ["float32", 3], at: ["int64", 1] },
  (i) => ops.after(i.x, i.at),
  /After\(x float32 \[3\], awaited int64 \[1\]\): what is awaited must be a float/,
);
