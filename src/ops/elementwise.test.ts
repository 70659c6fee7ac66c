import { describe } from "vitest";
import { bools, checkOp, checkRejects, checkSymbolic, ids, sample, values, vector } from "../../tests/ops/harness.ts";
import type { Tensor } from "../graph/index.ts";
import * as ops from "./index.ts";

/** erf by its series, which converges everywhere. */
const erf = (x: number): number => {
  let term = x;
  let total = x;
  for (let n = 1; n < 200; n++) {
    term *= (-x * x) / n;
    total += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * total;
};
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const geluTanh = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

describe("unary", () => {
  const mixed = [-2.5, -1.25, -0.3, 0.2, 0.9, 2.75];
  const positive = [0.25, 0.5, 1, 1.5, 2, 3.5];
  const table: [string, (x: Tensor) => Tensor, (x: number) => number, number[]][] = [
    ["neg", ops.neg, (x) => -x, mixed],
    ["exp", ops.exp, Math.exp, mixed],
    ["log", ops.log, Math.log, positive],
    ["sqrt", ops.sqrt, Math.sqrt, positive],
    ["reciprocal", ops.reciprocal, (x) => 1 / x, mixed],
    ["abs", ops.abs, Math.abs, mixed],
    ["sin", ops.sin, Math.sin, mixed],
    ["cos", ops.cos, Math.cos, mixed],
    ["tanh", ops.tanh, Math.tanh, mixed],
    ["sigmoid", ops.sigmoid, sigmoid, mixed],
    ["relu", ops.relu, (x) => Math.max(x, 0), mixed],
    ["erf", ops.erf, erf, mixed],
    ["softplus", ops.softplus, (x) => Math.log1p(Math.exp(x)), mixed],
    ["silu", ops.silu, (x) => x * sigmoid(x), mixed],
    ["gelu", ops.gelu, (x) => (x * (1 + erf(x / Math.SQRT2))) / 2, mixed],
    ["geluTanh", ops.geluTanh, geluTanh, mixed],
    ["softcap", (x) => ops.softcap(x, 1.5), (x) => 1.5 * Math.tanh(x / 1.5), mixed],
    ["pow 3", (x) => ops.pow(x, 3), (x) => x ** 3, mixed],
    ["pow 2", (x) => ops.pow(x, 2), (x) => x * x, mixed],
    ["pow 0", (x) => ops.pow(x, 0), () => 1, [0, 1, 2, -3]],
    ["pow -0.5", (x) => ops.pow(x, -0.5), (x) => x ** -0.5, positive],
    ["2 to the power", (x) => ops.pow(2, x), (x) => 2 ** x, mixed],
    ["clip", (x) => ops.clip(x, -1, 1), (x) => Math.min(Math.max(x, -1), 1), mixed],
  ];
  for (const [name, op, formula, xs] of table)
    checkOp(name, { inputs: { x: vector(...xs) }, fn: ({ x }) => op(x), expected: xs.map(formula), second: true });
});

describe("unary without gradient", () => {
  const xs = [-2.5, -1.5, -0.3, 0, 0.5, 1.5, 2.75];
  const table: [string, (x: Tensor) => Tensor, number[]][] = [
    ["sign", ops.sign, [-1, -1, -1, 0, 1, 1, 1]],
    ["floor", ops.floor, [-3, -2, -1, 0, 0, 1, 2]],
    ["ceil", ops.ceil, [-2, -1, 0, 0, 1, 2, 3]],
    ["round halves to even", ops.round, [-2, -2, 0, 0, 0, 2, 3]],
  ];
  for (const [name, op, expected] of table)
    checkOp(name, { inputs: { x: vector(...xs) }, fn: ({ x }) => op(x), expected, gradient: false });
});

describe("far from zero, where a careless formula overflows", () => {
  const xs = [-120, -90, -30, 0, 30, 90, 120];
  const table: [string, (x: Tensor) => Tensor, number[]][] = [
    ["softplus", ops.softplus, [0, 0, 0, Math.LN2, 30, 90, 120]],
    ["sigmoid", ops.sigmoid, [0, 0, 0, 0.5, 1, 1, 1]],
    ["tanh", ops.tanh, [-1, -1, -1, 0, 1, 1, 1]],
    ["silu", ops.silu, [0, 0, 0, 0, 30, 90, 120]],
    ["gelu", ops.gelu, [0, 0, 0, 0, 30, 90, 120]],
    ["geluTanh", ops.geluTanh, [0, 0, 0, 0, 30, 90, 120]],
    ["erf", ops.erf, [-1, -1, -1, 0, 1, 1, 1]],
  ];
  for (const [name, op, expected] of table) checkOp(name, { inputs: { x: vector(...xs) }, fn: ({ x }) => op(x), expected });
});

// Graphics processors' own sin and cos are good to 2e-4 near zero and to nothing far away; see sineByPolynomial.
describe("sin and cos over many turns", () => {
  const xs = Array.from({ length: 64 }, (_, i) => Math.fround((i - 31.5) * 1.7 ** (i % 11)));
  checkOp("sin", { inputs: { x: vector(...xs) }, fn: ({ x }) => ops.sin(x), expected: xs.map(Math.sin), gradient: false, tolerance: 4e-6 });
  checkOp("cos", { inputs: { x: vector(...xs) }, fn: ({ x }) => ops.cos(x), expected: xs.map(Math.cos), gradient: false, tolerance: 4e-6 });
});

describe("binary", () => {
  const a = [1.5, -2, 0.5, 3];
  const b = [0.5, 1.25, -4, 2];
  const table: [string, (a: Tensor, b: Tensor) => Tensor, (a: number, b: number) => number][] = [
    ["add", ops.add, (x, y) => x + y],
    ["sub", ops.sub, (x, y) => x - y],
    ["mul", ops.mul, (x, y) => x * y],
    ["div", ops.div, (x, y) => x / y],
    ["maximum", ops.maximum, Math.max],
    ["minimum", ops.minimum, Math.min],
  ];
  for (const [name, op, formula] of table) {
    checkOp(name, {
      inputs: { a: vector(...a), b: vector(...b) },
      fn: (i) => op(i.a, i.b),
      expected: a.map((x, i) => formula(x, b[i]!)),
      second: true,
    });
    checkOp(`${name} of [2,1,3] and [2,1]`, {
      inputs: { a: values([2, 1, 3], [1, 2, 3, 4, 5, 6]), b: values([2, 1], [2.5, -3.5]) },
      fn: (i) => op(i.a, i.b),
      expected: [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6].map((x, i) => formula(x, i % 6 < 3 ? 2.5 : -3.5)),
    });
    checkRejects(
      name,
      { a: ["float32", 2, 3], b: ["float32", 4] },
      (i) => op(i.a, i.b),
      /float32 \[2,3\].*float32 \[4\].*do not broadcast/,
    );
    checkRejects(`${name} of two dtypes`, { a: ["float32", 2], b: ["int64", 2] }, (i) => op(i.a, i.b), /one dtype; cast/);
  }
  checkOp("pow", {
    inputs: { a: vector(0.5, 1.5, 2), b: vector(2, -1, 0.5) },
    fn: (i) => ops.pow(i.a, i.b),
    expected: [0.25, 1 / 1.5, Math.SQRT2],
    second: true,
  });
  checkOp("one operand used twice", { inputs: { x: vector(1, 2) }, fn: ({ x }) => ops.mul(x, ops.add(x, x)), expected: [2, 8] });
  checkOp("numbers on either side", {
    inputs: { x: vector(1, 2) },
    fn: ({ x }) => ops.div(ops.sub(1, x), ops.add(x, 1)),
    expected: [0, -1 / 3],
  });
  checkOp("int64 arithmetic beyond 2³²", {
    inputs: { a: ids([2], 2 ** 33, -5), b: ids([2], 3, 7) },
    fn: (i) => [ops.add(i.a, i.b), ops.mul(i.a, i.b), ops.sub(i.a, i.b)],
    expected: [
      [2 ** 33 + 3, 2],
      [3 * 2 ** 33, -35],
      [2 ** 33 - 3, -12],
    ],
  });
  checkSymbolic("broadcast", { inputs: { a: ["b", 3], b: ["b", 1] }, sizes: [{ b: 1 }, { b: 4 }], fn: (i) => ops.mul(i.a, i.b) });
});

describe("comparisons and logic", () => {
  const table: [string, (a: Tensor, b: Tensor) => Tensor, number[]][] = [
    ["equal", ops.equal, [0, 1, 0]],
    ["less", ops.less, [1, 0, 0]],
    ["greater", ops.greater, [0, 0, 1]],
    ["lessOrEqual", ops.lessOrEqual, [1, 1, 0]],
    ["greaterOrEqual", ops.greaterOrEqual, [0, 1, 1]],
  ];
  for (const [name, op, expected] of table) {
    checkOp(name, { inputs: { a: vector(1, 2, 3), b: vector(2, 2, 2) }, fn: (i) => op(i.a, i.b), expected, gradient: false });
    checkOp(`${name} of int64`, { inputs: { a: ids([3], 1, 2, 3), b: ids([3], 2, 2, 2) }, fn: (i) => op(i.a, i.b), expected });
    checkOp(`${name} of int32`, {
      inputs: { a: values([3], [1, 2, 3], "int32"), b: values([3], [2, 2, 2], "int32") },
      fn: (i) => op(i.a, i.b),
      expected,
    });
  }
  checkOp("and, or, not", {
    inputs: { a: bools([4], 0, 0, 1, 1), b: bools([4], 0, 1, 0, 1) },
    fn: (i) => [ops.logicalAnd(i.a, i.b), ops.logicalOr(i.a, i.b), ops.logicalNot(i.a)],
    expected: [
      [0, 0, 0, 1],
      [0, 1, 1, 1],
      [1, 1, 0, 0],
    ],
  });
});

describe("where", () => {
  checkOp("broadcasts all three", {
    inputs: { condition: bools([2, 1], 1, 0), a: vector(1, 2, 3), b: values([2, 3], [10, 20, 30, 40, 50, 60]) },
    fn: (i) => ops.where(i.condition, i.a, i.b),
    expected: [1, 2, 3, 40, 50, 60],
  });
  checkOp("of numbers", { inputs: { c: bools([2], 1, 0) }, fn: ({ c }) => ops.where(c, 1, -2), expected: [1, -2] });
  checkOp("of int64", {
    inputs: { c: bools([2], 1, 0), a: ids([2], 2 ** 40, 3) },
    fn: ({ c, a }) => ops.where(c, a, -7),
    expected: [2 ** 40, -7],
  });
  checkOp("hides what is not finite, in the gradient too", {
    inputs: { x: vector(-1, 4) },
    fn: ({ x }) => ops.where(ops.greater(x, 0), ops.sqrt(ops.where(ops.greater(x, 0), x, 1)), 0),
    expected: [0, 2],
  });
  checkRejects("condition of floats", { c: ["float32", 2], a: ["float32", 2] }, (i) => ops.where(i.c, i.a, 0), /condition must be bool/);
  checkRejects("two dtypes", { c: ["bool", 2], a: ["float32", 2], b: ["int64", 2] }, (i) => ops.where(i.c, i.a, i.b), /one dtype/);
  checkRejects("shapes", { c: ["bool", 2], a: ["float32", 3] }, (i) => ops.where(i.c, i.a, 0), /do not broadcast/);
});

describe("cast, stopGradient, straightThrough", () => {
  checkOp("float to int truncates towards zero", {
    inputs: { x: vector(-1.75, -0.5, 0.5, 2.75) },
    fn: ({ x }) => [ops.cast(x, "int64"), ops.cast(x, "int32")],
    expected: [
      [-1, 0, 0, 2],
      [-1, 0, 0, 2],
    ],
    gradient: false,
  });
  checkOp("bool and integers to float", {
    inputs: { b: bools([2], 0, 1), n: ids([2], -3, 9), m: values([2], [4, -4], "int32") },
    fn: (i) => [ops.cast(i.b, "float32"), ops.cast(i.n, "float32"), ops.cast(i.m, "float32"), ops.cast(i.m, "int64")],
    expected: [
      [0, 1],
      [-3, 9],
      [4, -4],
      [4, -4],
    ],
  });
  checkOp("float32 through float64: the gradient casts back", {
    inputs: { x: vector(0.5, -1) },
    fn: ({ x }) => ops.cast(ops.mul(ops.cast(x, "float64"), 3), x.dtype),
    expected: [1.5, -3],
  });
  checkOp("16-bit floats, with literals of their own", {
    inputs: { x: vector(0.1, -1.5, 1000, 1e-5) },
    fn: ({ x }) => {
      const half = ops.cast(x, "float16");
      const [scaled, filled] = [ops.mul(half, 0.1), ops.add(half, ops.fill([4], 2049, "float16"))];
      return [ops.cast(scaled, "float32"), ops.cast(filled, "float32"), ops.cast(ops.cast(x, "bfloat16"), "float32")];
    },
    // 0.1 is 0.0999756 in float16 and 2049 lies between two of its numbers: the even one is 2048.
    expected: [
      [0.1 * 0.0999756, -1.5 * 0.0999756, 99.97559, 1e-6],
      [2048, 2046, 3048, 2048],
      [0.1000977, -1.5, 1000, 1.001358e-5],
    ],
    gradient: false,
    tolerance: 1e-3,
    without: { webgpu: "SwiftShader has no 16-bit floats" },
  });
  checkOp("stopGradient", {
    inputs: { x: sample([3]) },
    fn: ({ x }) => ops.sub(ops.mul(x, 2), ops.stopGradient(ops.mul(x, 2))),
    expected: [0, 0, 0],
    gradient: false,
  });
  checkRejects("straightThrough", { a: ["float32", 2], b: ["float32", 3] }, (i) => ops.straightThrough(i.a, i.b), /one type and shape/);
});

describe("logical operators take bools alone", () => {
  const types = { a: ["bool", 2], n: ["int64", 2], x: ["float32", 2] } as const;
  checkRejects("logicalAnd", types, (i) => ops.logicalAnd(i.a, i.n), /And\(a bool \[2\], b int64 \[2\]\): both operands must be bool/);
  checkRejects("logicalAnd of two others", types, (i) => ops.logicalAnd(i.x, i.x), /both operands must be bool/);
  checkRejects("logicalOr", types, (i) => ops.logicalOr(i.x, i.a), /Or\(.*both operands must be bool/);
  checkRejects("logicalOr of shapes", { a: ["bool", 2], b: ["bool", 3] }, (i) => ops.logicalOr(i.a, i.b), /do not broadcast/);
  checkRejects("logicalNot", types, (i) => ops.logicalNot(i.x), /Not\(x float32 \[2\]\): the operand must be bool/);
});
