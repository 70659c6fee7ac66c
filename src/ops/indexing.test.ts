import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, ids, sample, values } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

const table = values([3, 2], [1, 2, 3, 4, 5, 6]);

describe("gather", () => {
  checkOp("rows, some twice", {
    inputs: { table, at: ids([2, 2], 2, 0, 2, 1) },
    fn: (i) => ops.gather(i.table, i.at),
    expected: [5, 6, 1, 2, 5, 6, 3, 4],
    second: true,
  });
  checkOp("columns", {
    inputs: { table, at: ids([3], 1, 1, 0) },
    fn: (i) => ops.gather(i.table, i.at, 1),
    expected: [2, 2, 1, 4, 4, 3, 6, 6, 5],
  });
  checkOp("by int32", {
    inputs: { table, at: values([2], [2, 2], "int32") },
    fn: (i) => ops.embedding(i.at, i.table),
    expected: [5, 6, 5, 6],
  });
  checkOp("by one scalar index", { inputs: { table, at: ids([], 1) }, fn: (i) => ops.gather(i.table, i.at), expected: [3, 4] });
  checkRejects("gather", { x: ["float32", 3], i: ["float32", 2] }, (t) => ops.gather(t.x, t.i), /indices must be int64 or int32/);
  checkSymbolic("embedding", {
    inputs: { at: ["b", "t"], table: [5, 2] },
    sizes: [
      { b: 1, t: 3 },
      { b: 2, t: 4 },
    ],
    make: { at: (shape) => ids(shape, ...Array.from({ length: shape[0]! * shape[1]! }, (_, i) => (i * 3) % 5)) },
    fn: (i) => ops.embedding(i.at, i.table),
  });
});

describe("scatterAdd", () => {
  checkOp("adds rows that share an index", {
    inputs: { rows: values([3, 2], [1, 2, 3, 4, 5, 6]), at: ids([3], 1, 3, 1) },
    fn: (i) => ops.scatterAdd(i.rows, i.at, 4),
    expected: [0, 0, 6, 8, 0, 0, 3, 4],
    second: true,
  });
  checkOp("of single numbers", {
    inputs: { rows: values([3], [1, 2, 4]), at: ids([3], 1, 1, 0) },
    fn: (i) => ops.scatterAdd(i.rows, i.at, 2),
    expected: [4, 3],
  });
  checkRejects("scatterAdd", { r: ["float32", 3, 2], i: ["int64", 2] }, (t) => ops.scatterAdd(t.r, t.i, 4), /one index per row/);
});

describe("gatherElements, scatterElementsAdd", () => {
  checkOp("gatherElements", {
    inputs: { table, at: ids([3, 1], 1, 0, 1), rows: ids([2, 2], 2, 0, 2, 1) },
    fn: (i) => [ops.gatherElements(i.table, i.at), ops.gatherElements(i.table, i.rows, 0)],
    expected: [
      [2, 3, 6],
      [5, 2, 5, 4],
    ],
    second: true,
  });
  checkOp("scatterElementsAdd with repeated places", {
    inputs: { table, at: ids([3, 2], 0, 0, 1, 0, 1, 1), updates: sample([3, 2]) },
    fn: (i) => ops.scatterElementsAdd(i.table, i.at, i.updates),
    expected: scattered(),
    second: true,
  });
  checkRejects("gatherElements", { x: ["float32", 3, 2], i: ["int64", 2, 1] }, (t) => ops.gatherElements(t.x, t.i), /every axis but 1/);
  checkRejects(
    "scatterElementsAdd",
    { x: ["float32", 3, 2], i: ["int64", 3, 1], u: ["float32", 3, 2] },
    (t) => ops.scatterElementsAdd(t.x, t.i, t.u),
    /one shape/,
  );
  function scattered(): number[] {
    const [a, b, c, d, e, f] = sample([3, 2]).data as [number, number, number, number, number, number];
    return [1 + a + b, 2, 3 + d, 4 + c, 5, 6 + e + f];
  }
});

describe("oneHot", () => {
  checkOp("ids outside give zeros", {
    inputs: { at: ids([4], 0, 2, -1, 3) },
    fn: ({ at }) => [ops.oneHot(at, 3), ops.oneHot(ops.cast(at, "int32"), 2, "int64")],
    expected: [
      [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
      [1, 0, 0, 0, 0, 0, 0, 0],
    ],
  });
  checkRejects("oneHot", { x: ["float32", 3] }, (t) => ops.oneHot(t.x, 3), /ids must be int64 or int32/);
});
