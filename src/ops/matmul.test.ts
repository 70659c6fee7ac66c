import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, sample, values } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

/** Batched product of row-major arrays with transposes, the plain way; batches broadcast. */
function product(a: { shape: readonly number[]; data: readonly number[] }, b: typeof a, ta: boolean, tb: boolean, alpha: number): number[] {
  const batch = ops.broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2)) as number[];
  const [ra, ca] = a.shape.slice(-2) as [number, number];
  const [rb, cb] = b.shape.slice(-2) as [number, number];
  const [rows, inner, columns] = [ta ? ca : ra, ta ? ra : ca, tb ? rb : cb];
  const offset = (t: typeof a, index: number[]) => {
    const own = t.shape.slice(0, -2);
    return own.reduce((o, d, i) => o * d + (d === 1 ? 0 : index[i + index.length - own.length]!), 0) * t.shape.at(-1)! * t.shape.at(-2)!;
  };
  const out: number[] = [];
  for (let n = 0; n < batch.reduce((p, d) => p * d, 1); n++) {
    let rest = n;
    const index = batch.map(() => 0);
    for (let i = batch.length - 1; i >= 0; i--) [index[i], rest] = [rest % batch[i]!, Math.floor(rest / batch[i]!)];
    const [oa, ob] = [offset(a, index), offset(b, index)];
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        let total = 0;
        for (let k = 0; k < inner; k++)
          total += a.data[oa + (ta ? k * ca + r : r * ca + k)]! * b.data[ob + (tb ? c * cb + k : k * cb + c)]!;
        out.push(alpha * total);
      }
    }
  }
  return out;
}

describe("matmul", () => {
  const batches: [number[], number[]][] = [
    [[], []],
    [[2], []],
    [[], [2]],
    [[2], [2]],
    [[2, 1], [3]],
    [
      [1, 2],
      [2, 1],
    ],
  ];
  for (const [batchA, batchB] of batches) {
    for (const transposeA of [false, true]) {
      for (const transposeB of [false, true]) {
        const a = sample([...batchA, ...(transposeA ? [3, 2] : [2, 3])], -1, 1, 3);
        const b = sample([...batchB, ...(transposeB ? [4, 3] : [3, 4])], -1, 1, 4);
        const alpha = batchA.length === 1 ? 0.5 : 1;
        checkOp(`[${a.shape}]${transposeA ? "ᵀ" : ""} × [${b.shape}]${transposeB ? "ᵀ" : ""} · ${alpha}`, {
          inputs: { a, b },
          fn: (i) => ops.matmul(i.a, i.b, { transposeA, transposeB, alpha }),
          expected: product(a, b, transposeA, transposeB, alpha),
          second: batchA.length + batchB.length === 1,
        });
      }
    }
  }
  checkOp("of int32 counts", {
    inputs: { a: values([1, 2], [3, -4], "int32"), b: values([1, 2], [5, 6], "int32") },
    fn: (i) => ops.matmul(i.a, i.b, { transposeB: true }),
    expected: [-9],
  });
  checkOp("linear", {
    inputs: { x: values([1, 2], [1, 2]), w: values([3, 2], [1, 0, 0, 1, 1, 1]) },
    fn: (i) => ops.linear(i.x, i.w),
    expected: [1, 2, 3],
  });
  checkRejects("inner sizes", { a: ["float32", 2, 3], b: ["float32", 4, 5] }, (i) => ops.matmul(i.a, i.b), /a × b differ: 3 and 4/);
  checkRejects(
    "inner sizes, transposed",
    { a: ["float32", 2, 3], b: ["float32", 5, 4] },
    (i) => ops.linear(i.a, i.b),
    /a × bᵀ differ: 3 and 4/,
  );
  checkRejects("batches", { a: ["float32", 2, 2, 3], b: ["float32", 3, 3, 5] }, (i) => ops.matmul(i.a, i.b), /leading axes/);
  checkRejects("vectors", { a: ["float32", 3], b: ["float32", 3, 5] }, (i) => ops.matmul(i.a, i.b), /at least two axes/);
  checkRejects("dtypes", { a: ["float32", 2, 3], b: ["float64", 3, 5] }, (i) => ops.matmul(i.a, i.b), /one dtype/);
  checkSymbolic("matmul", {
    inputs: { x: ["b", "t", 3], w: [4, 3], k: ["b", "p", 3] },
    sizes: [
      { b: 1, t: 2, p: 3 },
      { b: 3, t: 1, p: 2 },
    ],
    fn: (i) => [ops.linear(i.x, i.w), ops.matmul(i.x, i.k, { transposeB: true, alpha: 0.5 })],
  });
});
