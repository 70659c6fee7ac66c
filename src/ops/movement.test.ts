import { describe } from "vitest";
import { bools, checkOp, checkRejects, checkSymbolic, ids, sample, values } from "../../tests/ops/harness.ts";
import { addDims, mulDims } from "../graph/index.ts";
import * as ops from "./index.ts";

const x = values([2, 3], [1, 2, 3, 4, 5, 6]);
const square = (list: readonly number[]) => list.map((v) => v * v);

describe("reshape, squeeze, unsqueeze", () => {
  checkOp("reshape", {
    inputs: { x },
    fn: (i) => [
      ops.reshape(i.x, [3, 2]),
      ops.reshape(i.x, [-1]),
      ops.unsqueeze(i.x, 1),
      ops.unsqueeze(i.x, -1),
      ops.squeeze(ops.unsqueeze(i.x, 0), 0),
    ],
    expected: Array(5).fill(x.data),
  });
  checkSymbolic("reshape", {
    inputs: { x: ["b", "t", 6] },
    sizes: [
      { b: 1, t: 2 },
      { b: 3, t: 4 },
    ],
    fn: (i) => {
      const [b, t] = i.x.shape;
      return [
        ops.reshape(i.x, [b!, t!, 2, 3]),
        ops.reshape(i.x, [-1, 6]),
        ops.reshape(i.x, [mulDims(b!, 2), -1, 3]),
        ops.reshape(i.x, [-1, t!]),
      ];
    },
  });
  checkRejects("reshape", { x: ["float32", 2, 3] }, (i) => ops.reshape(i.x, [4, 2]), /the 6 elements do not fill \[4,2\]/);
  checkRejects("reshape of an inferred axis", { x: ["float32", 2, 3] }, (i) => ops.reshape(i.x, [4, -1]), /do not fill \[4,-1\]/);
  checkRejects("reshape with two inferred axes", { x: ["float32", 2, 3] }, (i) => ops.reshape(i.x, [-1, -1]), /only one/);
  checkRejects("squeeze", { x: ["float32", 2, 3] }, (i) => ops.squeeze(i.x, 0), /axis 0 has size 2, not 1/);
  checkRejects("unsqueeze", { x: ["float32", 2, 3] }, (i) => ops.unsqueeze(i.x, 4), /axis 4/);
});

describe("transpose", () => {
  checkOp("of two and three axes", {
    inputs: { x, z: values([1, 2, 3], [1, 2, 3, 4, 5, 6]) },
    fn: (i) => [ops.transpose(i.x), ops.transpose(i.z, [2, 0, 1]), ops.mul(ops.transpose(i.z, [1, 2, 0]), ops.unsqueeze(i.x, 2))],
    expected: [[1, 4, 2, 5, 3, 6], [1, 4, 2, 5, 3, 6], square(x.data)],
  });
  checkRejects("transpose", { x: ["float32", 2, 3] }, (i) => ops.transpose(i.x, [0, 0]), /\[0,0\] is not a permutation/);
  checkSymbolic("transpose", { inputs: { x: ["b", "t", 2] }, sizes: [{ b: 2, t: 3 }], fn: (i) => ops.transpose(i.x, [1, 0, 2]) });
});

describe("expand", () => {
  checkOp("stretches and adds axes", {
    inputs: { x: values([2, 1], [1, 2]) },
    fn: (i) => ops.expand(i.x, [2, 2, 3]),
    expected: [1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2],
  });
  checkOp("of bool and int64", {
    inputs: { b: bools([1], 1), n: ids([1], -3) },
    fn: (i) => [ops.expand(i.b, [2]), ops.expand(i.n, [2])],
    expected: [
      [1, 1],
      [-3, -3],
    ],
  });
  checkRejects("expand", { x: ["float32", 2, 3] }, (i) => ops.expand(i.x, [2, 6]), /does not stretch to \[2,6\]/);
  checkSymbolic("expand", { inputs: { x: ["b", 1], like: ["b", "t"] }, sizes: [{ b: 2, t: 3 }], fn: (i) => ops.expand(i.x, i.like.shape) });
});

describe("slice", () => {
  checkOp("bounds, negative bounds, steps", {
    inputs: { x: values([2, 5], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) },
    fn: (i) => [
      ops.slice(i.x, 1, 1, 3),
      ops.slice(i.x, -1, -2),
      ops.slice(i.x, 1, 0, 5, 2),
      ops.slice(i.x, 1, 1, -1, 2),
      ops.slice(i.x, 0, 1),
    ],
    expected: [
      [1, 2, 6, 7],
      [3, 4, 8, 9],
      [0, 2, 4, 5, 7, 9],
      [1, 3, 6, 8],
      [5, 6, 7, 8, 9],
    ],
  });
  checkOp("to nothing", { inputs: { x }, fn: (i) => ops.concat([ops.slice(i.x, 1, 2, 2), i.x], 1), expected: x.data });
  checkRejects("slice", { x: ["float32", 2, 3] }, (i) => ops.slice(i.x, 1, 2, 5), /bounds 2…5 do not lie in axis 1 of size 3/);
  checkRejects("slice backwards", { x: ["float32", 2, 3] }, (i) => ops.slice(i.x, 1, 2, 1), /bounds 2…1/);
  checkRejects("slice with a bad step", { x: ["float32", 2, 3] }, (i) => ops.slice(i.x, 1, 0, 3, 0), /step 0/);
  checkSymbolic("slice", {
    inputs: { x: ["b", "t", 4] },
    sizes: [
      { b: 1, t: 3 },
      { b: 2, t: 6 },
    ],
    fn: (i) => [ops.slice(i.x, 1, 1), ops.slice(i.x, 1, 0, -1), ops.slice(i.x, 1, -2), ops.slice(i.x, 2, 1, 3)],
  });
  checkOp("dynamicSlice", {
    inputs: { x: values([2, 4], [0, 1, 2, 3, 4, 5, 6, 7]), start: ids([], 1) },
    fn: (i) => ops.mul(ops.dynamicSlice(i.x, 1, i.start, 2), ops.dynamicSlice(i.x, 1, ops.add(i.start, 1), 2)),
    expected: [1 * 2, 2 * 3, 5 * 6, 6 * 7],
    second: true,
  });
  checkRejects("dynamicSlice", { x: ["float32", 4], s: ["float32"] }, (i) => ops.dynamicSlice(i.x, 0, i.s, 2), /start must be one int64/);
});

describe("pad", () => {
  checkOp("with zeros and with a value", {
    inputs: { x },
    fn: (i) => [ops.pad(i.x, 1, 1, 0), ops.pad(i.x, 0, 0, 1, -7.5)],
    expected: [
      [0, 1, 2, 3, 0, 4, 5, 6],
      [1, 2, 3, 4, 5, 6, -7.5, -7.5, -7.5],
    ],
  });
  checkOp("of int64 beyond the floats", {
    inputs: { n: ids([1], 5) },
    fn: ({ n }) => ops.pad(n, 0, 1, 1, -100),
    expected: [-100, 5, -100],
  });
  checkRejects("pad", { x: ["float32", 2] }, (i) => ops.pad(i.x, 0, -1, 0), /cannot pad by -1 and 0/);
  checkSymbolic("pad to a symbolic length", {
    inputs: { x: ["t", 2], y: ["p", 2] },
    sizes: [
      { t: 1, p: 2 },
      { t: 3, p: 1 },
    ],
    fn: (i) => ops.add(ops.pad(i.x, 0, i.y.shape[0]!, 0), ops.pad(i.y, 0, 0, i.x.shape[0]!)),
  });
});

describe("concat, stack, split", () => {
  checkOp("concat", {
    inputs: { a: x, b: values([2, 1], [7, 8]) },
    fn: (i) => [ops.concat([i.a, i.b, i.a], 1), ops.concat([i.a, i.a], 0)],
    expected: [
      [1, 2, 3, 7, 1, 2, 3, 4, 5, 6, 8, 4, 5, 6],
      [...x.data, ...x.data],
    ],
  });
  checkOp("stack", {
    inputs: { a: sample([2]), b: sample([2], 1, 2) },
    fn: (i) => ops.stack([i.a, i.b], 1),
    expected: interleave(sample([2]).data, sample([2], 1, 2).data),
  });
  checkOp("split, with one part unused", {
    inputs: { x: values([2, 4], [0, 1, 2, 3, 4, 5, 6, 7]) },
    fn: (i) => {
      const [a, , c] = ops.split(i.x, [1, 2, 1], 1);
      const [upper, lower] = ops.split(i.x, 2, 0);
      return [a!, c!, ops.mul(upper!, lower!)];
    },
    expected: [
      [0, 4],
      [3, 7],
      [0, 5, 12, 21],
    ],
  });
  checkRejects(
    "concat",
    { a: ["float32", 2, 3], b: ["float32", 3, 3] },
    (i) => ops.concat([i.a, i.b], 1),
    /agree in dtype and in every axis but 1/,
  );
  checkRejects("concat of nothing", { a: ["float32", 2] }, () => ops.concat([], 0), /nothing to join/);
  const many = sample([2, 15], -1, 1, 4);
  checkOp("split into more parts than a shader has buffers", {
    inputs: { x: many },
    fn: (i) => ops.concat([...ops.split(i.x, 15, 1)].reverse(), 1),
    expected: [0, 1].flatMap((row) => Array.from(many.data.slice(row * 15, (row + 1) * 15)).reverse()),
  });
  checkRejects("split", { x: ["float32", 2, 3] }, (i) => ops.split(i.x, 2, 1), /axis 1 of size 3 cannot be cut into 2 equal parts/);
  checkRejects("split of a symbol", { x: ["float32", "t"] }, (i) => ops.split(i.x, 2, 0), /symbolic; slice it instead/);
  checkSymbolic("concat of past and present", {
    inputs: { past: ["b", "p", 2], now: ["b", "t", 2] },
    sizes: [
      { b: 1, p: 3, t: 1 },
      { b: 2, p: 1, t: 4 },
    ],
    fn: (i) => {
      const all = ops.concat([i.past, i.now], 1);
      return [all, ops.reshape(all, [-1, 2]), ops.slice(all, 1, i.past.shape[1]!)];
    },
  });
  function interleave(a: readonly number[], b: readonly number[]): number[] {
    return a.flatMap((v, i) => [v, b[i]!]);
  }
});

describe("flip, fill, range", () => {
  checkOp("flip", {
    inputs: { x },
    fn: (i) => [ops.flip(i.x, 1), ops.flip(i.x, 0)],
    expected: [
      [3, 2, 1, 6, 5, 4],
      [4, 5, 6, 1, 2, 3],
    ],
  });
  checkOp("fill", {
    inputs: { x },
    fn: (i) => [
      ops.fill([2], 0.5),
      ops.fill([2], 2 ** 40 + 1, "int64"),
      ops.fill([1], 1, "bool"),
      ops.zerosLike(i.x),
      ops.onesLike(i.x),
      ops.fill([2], 7, "int32"),
    ],
    expected: [[0.5, 0.5], [2 ** 40 + 1, 2 ** 40 + 1], [1], Array(6).fill(0), Array(6).fill(1), [7, 7]],
    gradient: false,
  });
  checkOp("range", {
    inputs: { x },
    fn: () => [ops.range(3), ops.range(2, 5)],
    expected: [
      [0, 1, 2],
      [5, 6],
    ],
    gradient: false,
  });
  checkSymbolic("fill and range", {
    inputs: { x: ["b", "t"] },
    sizes: [
      { b: 1, t: 2 },
      { b: 2, t: 5 },
    ],
    fn: (i) => [ops.onesLike(i.x), ops.range(addDims(i.x.shape[1]!, i.x.shape[0]!), i.x.shape[0]), ops.flip(i.x, 1)],
  });
  checkRejects("flip", { x: ["float32", 2] }, (i) => ops.flip(i.x, 1), /axis 1 does not exist/);
});
