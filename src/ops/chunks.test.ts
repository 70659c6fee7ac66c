import { describe, expect, test } from "vitest";
import { checkOp, checkRejects, host, sample } from "../../tests/ops/harness.ts";
import { device } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import * as ops from "./index.ts";

const x = sample([5, 3], -1, 1, 1);
const w = sample([2, 3], -1, 1, 2);
/** tanh(x·wᵀ) by hand. */
const expected = Array.from({ length: 10 }, (_, i) => {
  const [row, out] = [Math.floor(i / 2), i % 2];
  return Math.tanh([0, 1, 2].reduce((n, k) => n + x.data[row * 3 + k]! * w.data[out * 3 + k]!, 0));
});
const layer = (x: Tensor, w: Tensor) => ops.tanh(ops.linear(x, w));

describe("inChunks", () => {
  for (const limit of [1, 2, 3, 5]) {
    checkOp(`rows in chunks of ${limit}, and a weight that all of them read`, {
      inputs: { x, w },
      fn: (i) => ops.inChunks({ x: i.x }, limit, ({ x }) => [layer(x!, i.w)]),
      expected: [expected],
      second: true,
    });
  }
  checkOp("two results of two operands; an outer value that depends on another", {
    inputs: { x, w, y: sample([5], 0.5, 2, 3) },
    fn: (i) => {
      const double = ops.mul(i.w, 2);
      return ops.inChunks({ x: i.x, y: i.y }, 2, ({ x, y }) => [
        ops.mul(layer(x!, ops.sub(double, i.w)), ops.unsqueeze(y!, 1)),
        ops.log(y!),
      ]);
    },
    expected: [
      expected.map((v, i) => v * sample([5], 0.5, 2, 3).data[Math.floor(i / 2)]!),
      sample([5], 0.5, 2, 3).data.map((v) => Math.log(v)),
    ],
  });
  checkOp("the number of the chunk", {
    inputs: { x: sample([5], 1, 2, 4) },
    fn: (i) => ops.inChunks({ x: i.x }, 2, ({ x }, number) => [ops.mul(x!, ops.cast(number, x!.dtype))]),
    // Two, two and one row: as even as they can be.
    expected: [sample([5], 1, 2, 4).data.map((v, i) => v * Math.floor(i / 2))],
  });
  checkOp("within a gate, and a gate within", {
    inputs: { gate: { shape: [], data: [1], dtype: "bool" }, x, w },
    fn: (i) =>
      ops.when(
        i.gate,
        () =>
          ops.inChunks({ x: i.x }, 2, ({ x }) =>
            ops.when(
              i.gate,
              () => [layer(x!, i.w)],
              () => [ops.linear(x!, i.w)],
            ),
          ),
        () => [ops.linear(i.x, i.w)],
      ),
    expected: [expected],
  });
  checkOp("chunks of chunks", {
    inputs: { x, w },
    fn: (i) => ops.inChunks({ x: i.x }, 3, (outer) => ops.inChunks({ x: outer.x! }, 2, ({ x }) => [layer(x!, i.w)])),
    expected: [expected],
  });

  test("gradients of rows that fill up the last chunk are finite where the function has no slope at zero", async () => {
    const traced = trace({ x: { dtype: "float32", shape: [3, 2] } }, ({ x }) => {
      const [y] = ops.inChunks({ x: x! }, 2, (part) => [ops.sqrt(ops.sumOfSquares(part.x!, -1))]);
      return { d: grad(ops.sum(y!), [x!])[0]! };
    });
    const program = await (await device("cpu")).compile(traced);
    const { d } = await program.run({ x: host({ shape: [3, 2], data: [3, 4, 0, 1, 6, 8] }, "float32") });
    for (const [i, v] of [0.6, 0.8, 0, 1, 0.6, 0.8].entries()) expect((d!.data as Float32Array)[i]).toBeCloseTo(v, 6);
    await program.dispose();
  });

  checkRejects(
    "operands of different numbers of rows",
    { x: ["float32", 5, 3], y: ["float32", 4] },
    (i) => ops.inChunks(i, 2, ({ x }) => [x!]),
    /same number of rows/,
  );
  checkRejects(
    "a number of rows that is not known",
    { x: ["float32", "rows", 3] },
    (i) => ops.inChunks(i, 2, ({ x }) => [x!]),
    /known while tracing/,
  );
  checkRejects("chunks of no rows", { x: ["float32", 5, 3] }, (i) => ops.inChunks(i, 0, ({ x }) => [x!]), /at least one row, got 0/);
  checkRejects(
    "a result without the chunk's rows",
    { x: ["float32", 5, 3] },
    (i) => ops.inChunks(i, 2, ({ x }) => [ops.sum(x!)]),
    /a row for each of the chunk's 2/,
  );
});
