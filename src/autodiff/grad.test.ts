import { describe, expect, test } from "vitest";
import { checkOp, expectClose, host, vector } from "../../tests/ops/harness.ts";
import { device } from "../../tests/ops/providers.ts";
import { EspalierError, type Tensor, trace } from "../graph/index.ts";
import * as ops from "../ops/index.ts";
import { grad } from "./index.ts";

async function evaluate(fn: (x: Tensor) => Record<string, Tensor>, ...x: number[]): Promise<Record<string, number[]>> {
  const program = await (await device("cpu")).compile(trace({ x: { dtype: "float32", shape: [x.length] } }, (i) => fn(i.x)));
  const results = await program.run({ x: host(vector(...x), "float32") });
  await program.dispose();
  return Object.fromEntries(Object.entries(results).map(([k, t]) => [k, Array.from(t.data as Float32Array)]));
}

describe("grad", () => {
  test("of sin x, three times", async () => {
    const d = (y: Tensor, x: Tensor) => grad(ops.sum(y), [x])[0]!;
    const { first, second, third } = await evaluate(
      (x) => {
        const first = d(ops.sin(x), x);
        const second = d(first, x);
        return { first, second, third: d(second, x) };
      },
      0.5,
      2,
    );
    expectClose(first!, [0.5, 2].map(Math.cos), 1e-5, "first");
    expectClose(
      second!,
      [0.5, 2].map((v) => -Math.sin(v)),
      1e-5,
      "second",
    );
    expectClose(
      third!,
      [0.5, 2].map((v) => -Math.cos(v)),
      1e-5,
      "third",
    );
  });
  test("is zero for what the loss does not depend on", async () => {
    const { d } = await evaluate((x) => ({ d: grad(ops.sum(ops.stopGradient(x)), [x])[0]! }), 1, 2);
    expect(d).toEqual([0, 0]);
  });
  test("of a value in the middle: the total derivative", async () => {
    const { dx, dy } = await evaluate((x) => {
      const y = ops.mul(x, x);
      const [dx, dy] = grad(ops.sum(ops.mul(y, x)), [x, y]);
      return { dx: dx!, dy: dy! };
    }, 3);
    expect([dx, dy]).toEqual([[27], [3]]);
  });
  test("of the loss itself is its seed", async () => {
    const { one, seeded } = await evaluate(
      (x) => {
        const loss = ops.sum(x);
        return { one: grad(loss, [loss])[0]!, seeded: grad(x, [x], ops.mul(x, 5))[0]! };
      },
      3,
      4,
    );
    expect([one, seeded]).toEqual([[1], [15, 20]]);
  });
  test("straightThrough hands the gradient on unchanged", async () => {
    const { y, d } = await evaluate(
      (x) => {
        const y = ops.straightThrough(x, ops.round(x));
        return { y, d: grad(ops.sum(ops.mul(y, y)), [x])[0]! };
      },
      1.4,
      -2.6,
    );
    expect([y, d]).toEqual([
      [1, -3],
      [2, -6],
    ]);
  });
  test("needs a loss of one element", () => {
    expect(() => trace({ x: { dtype: "float32", shape: [2] } }, ({ x }) => ({ y: grad(x, [x])[0]! }))).toThrow(EspalierError);
    expect(() => trace({ x: { dtype: "float32", shape: [2] } }, ({ x }) => ({ y: grad(x, [x])[0]! }))).toThrow(
      /one element, got shape \[2\]/,
    );
  });
  test("names the backward nodes after the forward ones, and does not overflow on deep graphs", () => {
    const { graph, outputs } = trace({ x: { dtype: "float32", shape: [] } }, ({ x }) => {
      let y = x;
      for (let i = 0; i < 20_000; i++) y = ops.sin(y);
      return { d: grad(y, [x])[0]! };
    });
    expect(outputs.d!.graph).toBe(graph);
  });
  checkOp("a value that fans out and joins again", {
    inputs: { x: vector(0.5, -1) },
    fn: ({ x }) => {
      const a = ops.exp(x);
      const b = ops.mul(a, x);
      return ops.add(ops.mul(a, b), ops.sub(b, a));
    },
    expected: [0.5, -1].map((v) => Math.exp(v) ** 2 * v + Math.exp(v) * (v - 1)),
    second: true,
  });
});
