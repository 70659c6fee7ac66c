import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, ids, values } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

const cube = values([2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8]);

describe("gatherNd", () => {
  checkOp("rows by pairs, one of them twice", {
    inputs: { cube, at: ids([3, 2], 0, 1, 1, 0, 0, 1) },
    fn: (i) => ops.gatherNd(i.cube, i.at),
    expected: [3, 4, 5, 6, 3, 4],
    second: true,
  });
  checkOp("single elements", {
    inputs: { cube, at: ids([1, 2, 3], 1, 1, 0, 0, 0, 1) },
    fn: (i) => ops.gatherNd(i.cube, i.at),
    expected: [7, 2],
  });
  checkOp("within each batch", {
    inputs: { cube, at: ids([2, 1], 1, 0) },
    fn: (i) => ops.gatherNd(i.cube, i.at, 1),
    expected: [3, 4, 5, 6],
    gradient: false,
  });
  checkRejects("gatherNd", { x: ["float32", 2], i: ["int64", 1, 2] }, (t) => ops.gatherNd(t.x, t.i), /index|tuples/);
  checkSymbolic("gatherNd", {
    inputs: { x: ["b", 2, 3], at: ["t", 2] },
    sizes: [
      { b: 2, t: 1 },
      { b: 3, t: 4 },
    ],
    make: { at: (shape) => ids(shape, ...Array.from({ length: shape[0]! * 2 }, (_, i) => i % 2)) },
    fn: (i) => ops.gatherNd(i.x, i.at),
  });
});

describe("scatterNd", () => {
  const updates = values([2, 2], [10, 20, 30, 40]);
  checkOp("puts rows in the place of others", {
    inputs: { cube, at: ids([2, 2], 1, 1, 0, 0), updates },
    fn: (i) => ops.scatterNd(i.cube, i.at, i.updates),
    expected: [30, 40, 3, 4, 5, 6, 10, 20],
    second: true,
  });
  checkOp("adds, also twice at one place", {
    inputs: { cube, at: ids([2, 2], 1, 0, 1, 0), updates },
    fn: (i) => ops.scatterNd(i.cube, i.at, i.updates, "add"),
    expected: [1, 2, 3, 4, 45, 66, 7, 8],
  });
  checkRejects(
    "scatterNd",
    { x: ["float32", 2, 2], i: ["int64", 1, 1], u: ["float32", 1, 3] },
    (t) => ops.scatterNd(t.x, t.i, t.u),
    /updates float32 \[1,2\]/,
  );
});
