import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, values } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

const x = values([2, 3], [1, 2, 3, -1, 0.5, 0]);
const softmax = (row: readonly number[]) => row.map((v) => Math.exp(v) / row.reduce((t, w) => t + Math.exp(w), 0));
const rows = [...softmax([1, 2, 3]), ...softmax([-1, 0.5, 0])];
const columns = [softmax([1, -1]), softmax([2, 0.5]), softmax([3, 0])];
const acrossColumns = [0, 1].flatMap((r) => columns.map((c) => c[r]!));

describe("softmax and logSoftmax", () => {
  checkOp("softmax along either axis", {
    inputs: { x },
    fn: (i) => [ops.softmax(i.x), ops.softmax(i.x, 0)],
    expected: [rows, acrossColumns],
    second: true,
  });
  checkOp("logSoftmax along either axis", {
    inputs: { x },
    fn: (i) => [ops.logSoftmax(i.x), ops.logSoftmax(i.x, 0)],
    expected: [rows.map(Math.log), acrossColumns.map(Math.log)],
    second: true,
  });
  checkOp("of huge scores", {
    inputs: { x: values([1, 3], [1e4, 1e4, -1e30]) },
    fn: (i) => [ops.softmax(i.x), ops.slice(ops.logSoftmax(i.x), 1, 0, 2)],
    expected: [
      [0.5, 0.5, 0],
      [-Math.LN2, -Math.LN2],
    ],
    gradient: false,
  });
  checkOp("along a middle axis", {
    inputs: { x: values([1, 2, 2], [1, 2, 3, 4]) },
    fn: (i) => ops.softmax(i.x, 1),
    expected: [...softmax([1, 3]), ...softmax([2, 4])].map((_, n, all) => all[[0, 2, 1, 3][n]!]!),
  });
  checkRejects("softmax", { x: ["float32", 3] }, (i) => ops.softmax(i.x, 1), /axis 1 does not exist/);
  checkRejects("logSoftmax", { x: ["float32", 3] }, (i) => ops.logSoftmax(i.x, -2), /axis -2 does not exist/);
  checkSymbolic("softmax", {
    inputs: { x: ["b", "t"] },
    sizes: [
      { b: 1, t: 3 },
      { b: 2, t: 5 },
    ],
    fn: (i) => [ops.softmax(i.x), ops.logSoftmax(i.x, 0)],
  });
});
