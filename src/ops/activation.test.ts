import { describe, expect, test } from "vitest";
import { checkOp, checkRejects, sample, vector } from "../../tests/ops/harness.ts";
import { grad } from "../autodiff/index.ts";
import { trace } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import * as ops from "./index.ts";

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

describe("gatedSilu", () => {
  const [gate, up] = [
    [-2.5, -0.3, 0.9, 2.75],
    [1.5, -2, 0.5, -0.25],
  ];
  checkOp("values", {
    inputs: { gate: vector(...gate!), up: vector(...up!) },
    fn: (i) => ops.gatedSilu(i.gate, i.up),
    expected: gate!.map((g, i) => g * sigmoid(g) * up![i]!),
    second: true,
  });
  checkRejects("another shape", { gate: ["float32", 2, 3], up: ["float32", 3] }, (i) => ops.gatedSilu(i.gate, i.up), /one type and shape/);
});

/** More elements than one chunk has, and a size that the number of chunks must be fitted to. */
const large = [1030, 1031];

/** Derivatives by hand, in double precision. */
const erf = (x: number): number => {
  // Abramowitz and Stegun 7.1.26 is too coarse: the series converges quickly enough for |x| < 3.
  let [term, total] = [x, x];
  for (let n = 1; n < 60; n++) {
    term *= (-x * x) / n;
    total += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * total;
};
const slopes: Record<string, (x: number) => number> = {
  silu: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
  gelu: (x) => (1 + erf(x / Math.SQRT2)) / 2 + (x * Math.exp(-x * x * 0.5)) / Math.sqrt(2 * Math.PI),
  geluTanh: (x) => {
    const k = Math.sqrt(2 / Math.PI);
    const t = Math.tanh(k * (x + 0.044715 * x ** 3));
    return (1 + t) / 2 + (x / 2) * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
  },
};

test.each([
  ["silu", ops.silu],
  ["gelu", ops.gelu],
  ["geluTanh", ops.geluTanh],
] as const)("the gradient of %s on a tensor that is cut into chunks", async (name, activation) => {
  const device = cpu();
  const values = sample(large, -3, 3, 5).data;
  const type = { dtype: "float32", shape: large } as const;
  const program = await device.compile(trace({ x: type }, ({ x }) => ({ dx: grad(ops.sum(activation(x)), [x])[0]! })));
  const { dx } = await program.run({ x: hostTensor("float32", large, Float32Array.from(values)) });
  await device.dispose();
  const places = Array.from({ length: 500 }, (_, i) => i * 2123);
  const error = Math.max(...places.map((i) => Math.abs(Number(dx!.data[i]) - slopes[name]!(Math.fround(Number(values[i]))))));
  expect(error).toBeLessThan(2e-6);
});

test("the gradients of gatedSilu in chunks are those of its parts", async () => {
  const device = cpu();
  const type = { dtype: "float32", shape: large } as const;
  const feeds = Object.fromEntries(
    ["gate", "up"].map((name, i) => [name, hostTensor("float32", large, Float32Array.from(sample(large, -3, 3, 7 + i).data as number[]))]),
  );
  const run = async (fn: typeof ops.gatedSilu) => {
    const program = await device.compile(
      trace({ gate: type, up: type }, ({ gate, up }) => {
        const y = fn(gate, up);
        const [dGate, dUp] = grad(ops.sum(ops.mul(y, y)), [gate, up]) as [typeof gate, typeof up];
        return { dGate, dUp };
      }),
    );
    const out = await program.run(feeds);
    return [out.dGate!.data, out.dUp!.data].map((data) => Array.from({ length: 500 }, (_, i) => Number(data[i * 2123])));
  };
  const [whole, parts] = [await run(ops.gatedSilu), await run((gate, up) => ops.mul(ops.mul(gate, ops.sigmoid(gate)), up))];
  await device.dispose();
  for (const [i, values] of whole.entries()) for (const [j, v] of values.entries()) expect(v).toBeCloseTo(parts[i]![j]!, 4);
});
