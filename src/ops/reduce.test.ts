import { describe, test } from "vitest";
import { checkOp, checkRejects, checkSymbolic, expectClose, host, ids, numbers, runOnce, sample, values } from "../../tests/ops/harness.ts";
import { providers } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import * as ops from "./index.ts";
import type { ReduceOptions } from "./reduce.ts";

const x = values([2, 3], [1, 5, -2, 4, 0.5, 3]);

describe("reductions", () => {
  type Reduction = (x: Tensor, axes?: number | readonly number[], options?: ReduceOptions) => Tensor;
  const table: [string, Reduction, all: number, rows: number[], columns: number[]][] = [
    ["sum", ops.sum, 11.5, [4, 7.5], [5, 5.5, 1]],
    ["mean", ops.mean, 11.5 / 6, [4 / 3, 2.5], [2.5, 2.75, 0.5]],
    ["sumOfSquares", ops.sumOfSquares, 55.25, [30, 25.25], [17, 25.25, 13]],
    ["max", ops.max, 5, [5, 4], [4, 5, 3]],
    ["min", ops.min, -2, [-2, 0.5], [1, 0.5, -2]],
  ];
  for (const [name, op, all, rows, columns] of table) {
    checkOp(name, {
      inputs: { x },
      fn: (i) => [op(i.x), op(i.x, 1), op(i.x, 0, { keepDims: true }), op(i.x, [-1, 0])],
      expected: [[all], rows, columns, [all]],
    });
    checkOp(`${name} over a middle axis of four`, {
      inputs: { x: sample([2, 3, 1, 2]) },
      fn: (i) => ops.mul(op(i.x, 1, { keepDims: true }), i.x),
      expected: reference(op, sample([2, 3, 1, 2]).data),
      second: true,
    });
    checkRejects(name, { x: ["float32", 2, 3] }, (i) => op(i.x, 2), /axis 2 does not exist in a tensor of rank 2/);
    checkRejects(`${name} twice over one axis`, { x: ["float32", 2, 3] }, (i) => op(i.x, [1, -1]), /name one axis twice/);
    checkSymbolic(name, {
      inputs: { x: ["b", 3, "t"] },
      sizes: [
        { b: 1, t: 2 },
        { b: 3, t: 5 },
      ],
      fn: (i) => [op(i.x, -1), op(i.x, [0, 1]), op(i.x)],
    });
  }
  function reference(op: Reduction, data: readonly number[]): number[] {
    const at = (a: number, b: number, c: number) => data[(a * 3 + b) * 2 + c]!;
    const combine = (list: number[]) => {
      const total = list.reduce((p, q) => p + q, 0);
      if (op === ops.sumOfSquares) return list.reduce((a, b) => a + b * b, 0);
      return op === ops.sum ? total : op === ops.mean ? total / 3 : op === ops.max ? Math.max(...list) : Math.min(...list);
    };
    return data.map((v, i) => v * combine([0, 1, 2].map((b) => at(Math.floor(i / 6), b, i % 2))));
  }
  checkOp("equal extremes share the gradient", {
    inputs: { x: values([4], [1, 3, 3, 0]) },
    // The slope of max is not defined at a tie: half of each side's slope is what a central difference gives.
    fn: (i) => [ops.max(i.x, 0), ops.min(ops.neg(i.x), 0)],
    expected: [[3], [-3]],
  });
  checkOp("sum of int64", { inputs: { n: ids([2, 2], 2 ** 33, 1, 2, 3) }, fn: ({ n }) => ops.sum(n, 0), expected: [2 ** 33 + 2, 4] });
  checkOp("sum of a scalar", { inputs: { x: values([], [4]) }, fn: (i) => ops.sum(i.x), expected: [4] });
});

describe("sumTo", () => {
  checkOp("undoes broadcasting", {
    inputs: { x: values([2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8]) },
    fn: (i) => [ops.sumTo(i.x, [2, 1]), ops.sumTo(i.x, [2]), ops.sumTo(i.x, [])],
    expected: [[14, 22], [16, 20], [36]],
  });
});

describe("logSumExp", () => {
  const lse = (list: number[]) => Math.log(list.reduce((t, v) => t + Math.exp(v), 0));
  checkOp("of rows and columns", {
    inputs: { x },
    fn: (i) => [ops.logSumExp(i.x), ops.logSumExp(i.x, 0, { keepDims: true }), ops.logSumExp(i.x, [0, 1])],
    expected: [[lse([1, 5, -2]), lse([4, 0.5, 3])], [lse([1, 4]), lse([5, 0.5]), lse([-2, 3])], [lse([1, 5, -2, 4, 0.5, 3])]],
    second: true,
  });
  checkOp("without overflow", {
    inputs: { x: values([3], [1000, 1000, -1000]) },
    fn: (i) => ops.logSumExp(i.x),
    expected: [1000 + Math.LN2],
    gradient: false,
  });
  for (const provider of providers) {
    test(`rows of −∞ and +∞ on ${provider}`, async () => {
      const infinite = Number.POSITIVE_INFINITY;
      const rows = values([4, 2], [-infinite, -infinite, 1, -infinite, infinite, 0, 3, 3]);
      const traced = trace({ x: { dtype: "float32", shape: [4, 2] } }, ({ x }) => {
        const y = ops.logSumExp(x);
        return { y, d: grad(y, [x], ops.fill([4], 2))[0]! };
      });
      const { y, d } = await runOnce(provider, traced, { x: host(rows, "float32") });
      expectClose(numbers(y!), [-infinite, 1, infinite, 3 + Math.LN2], 1e-6, "value");
      // (At +∞ there is no gradient.)
      expectClose(
        numbers(d!).filter((_, i) => i < 4 || i > 5),
        [0, 0, 2, 0, 1, 1],
        1e-6,
        "gradient",
      );
    });
  }
});

describe("argMax, argMin", () => {
  checkOp("the first of equals", {
    inputs: { x: values([2, 3], [1, 5, 5, 4, 0, 0]) },
    fn: (i) => [ops.argMax(i.x), ops.argMin(i.x), ops.argMax(i.x, 0, { keepDims: true })],
    expected: [
      [1, 0],
      [0, 1],
      [1, 0, 0],
    ],
    gradient: false,
  });
  checkRejects("argMax", { x: ["float32", 2] }, (i) => ops.argMax(i.x, 1), /axis 1 does not exist/);
});

describe("topK", () => {
  checkOp("largest and smallest", {
    inputs: { x: values([2, 4], [1, 5, 3, 2, 8, -1, 0, 7]) },
    fn: (i) => {
      const largest = ops.topK(i.x, 2);
      const smallest = ops.topK(i.x, 1, 0, { largest: false });
      return [largest.values, largest.indices, smallest.values, smallest.indices];
    },
    expected: [
      [5, 3, 8, 7],
      [1, 2, 0, 3],
      [1, -1, 0, 2],
      [0, 1, 1, 0],
    ],
  });
  checkRejects("topK", { x: ["float32", 3] }, (i) => ops.topK(i.x, 4), /k = 4 does not lie between 1 and the size 3/);
});

describe("cumSum", () => {
  checkOp("along either axis", {
    inputs: { x },
    fn: (i) => [ops.cumSum(i.x), ops.cumSum(i.x, 0)],
    expected: [
      [1, 6, 4, 4, 4.5, 7.5],
      [1, 5, -2, 5, 5.5, 1],
    ],
    second: true,
  });
  checkRejects("cumSum", { x: ["float32", 3] }, (i) => ops.cumSum(i.x, -2), /axis -2 does not exist/);
});
