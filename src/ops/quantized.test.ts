import { describe, expect, test } from "vitest";
import { runPlain, withModelFile } from "../../tests/onnx-models.ts";
import {
  checkOp,
  checkRejects,
  checkSymbolic,
  expectClose,
  host,
  numbers,
  runOnce,
  sample,
  type Values,
  values,
} from "../../tests/ops/harness.ts";
import { providers } from "../../tests/ops/providers.ts";
import { vjp } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import { encode } from "../onnx/index.ts";
import * as ops from "./index.ts";

/** Rows of `x` times a weight [out, in]. */
function product(x: Values, weight: readonly number[], outputs: number): number[] {
  const inner = x.shape.at(-1)!;
  const rows = x.data.length / inner;
  return Array.from({ length: rows * outputs }, (_, i) => {
    const [r, o] = [Math.floor(i / outputs), i % outputs];
    let total = 0;
    for (let k = 0; k < inner; k++) total += x.data[r * inner + k]! * weight[o * inner + k]!;
    return total;
  });
}

/** `fn(x)` and the gradient of its projection on `seed` for x. */
async function valueAndGradient(provider: string, x: Values, others: Record<string, Values>, seed: Values, fn: Traceable) {
  const feeds = Object.fromEntries(Object.entries({ x, seed, ...others }).map(([name, v]) => [name, host(v, "float32")]));
  const traced = trace(feeds, (inputs) => {
    const y = fn(inputs as Record<string, Tensor>);
    return { y, dx: vjp([y], [inputs.seed!], [inputs.x!])[0]! };
  });
  const results = await runOnce(provider, traced, feeds);
  return { y: numbers(results.y!), dx: numbers(results.dx!) };
}
type Traceable = (inputs: Record<string, Tensor>) => Tensor;

/** |a − b| as a share of |b|, for one row. */
const relativeError = (a: readonly number[], b: readonly number[]): number =>
  Math.sqrt(a.reduce((total, v, i) => total + (v - b[i]!) ** 2, 0) / b.reduce((total, v) => total + v * v, 0));

const rowOf = (data: readonly number[], row: number, width: number) => data.slice(row * width, (row + 1) * width);

const transposed = (data: readonly number[], rows: number, columns: number) =>
  Array.from(data, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!);

describe("int8Linear", () => {
  // Every element is a whole number of 127ths of its row's largest, so that nothing is rounded; the rows differ by a factor of 1000.
  const x = values([2, 1, 2], [127, -64, 0.002, 0.127]);
  const weight = values([2, 3], [1, 2, 3, -4, 5, -127], "int8");
  const scale = values([3], [0.5, 1, 2]);
  checkOp("a product without rounding", {
    inputs: { x, weight, scale },
    fn: (i) => ops.int8Linear(i.x, i.weight, i.scale),
    expected: [
      0.5 * (127 + 256),
      2 * 127 - 5 * 64,
      2 * (3 * 127 + 127 * 64),
      0.5 * (0.002 - 4 * 0.127),
      2 * 0.002 + 5 * 0.127,
      2 * (3 * 0.002 - 127 * 0.127),
    ],
    gradient: false,
  });
  checkOp("a row of zeros", {
    inputs: { x: values([1, 2], [0, 0]), weight, scale },
    fn: (i) => ops.int8Linear(i.x, i.weight, i.scale),
    expected: [0, 0, 0],
    gradient: false,
  });
  // 1/3 of 127 is 42⅓, which is rounded to 42.
  checkOp("rounding to the nearest 127th", {
    inputs: { x: values([1, 2], [3, 1]), weight: values([2, 1], [0, 127], "int8"), scale: values([1], [1 / 127]) },
    fn: (i) => ops.int8Linear(i.x, i.weight, i.scale),
    expected: [(3 * 42) / 127],
    gradient: false,
  });

  const [rows, inner, outputs] = [5, 64, 48];
  const wide = sample([rows, inner], -1, 1, 5);
  const ints = { dtype: "int8" as const, shape: [inner, outputs], data: sample([inner, outputs], -127, 127, 6).data.map(Math.round) };
  const scales = sample([outputs], 0.001, 0.02, 7);
  // Rows of the gradient that differ by 10^6, as those of a loss do.
  const seed = sample([rows, outputs], -1, 1, 8);
  const steep = { ...seed, data: seed.data.map((v, i) => v * 10 ** (-1.5 * Math.floor(i / outputs))) };
  const dense = transposed(ints.data, inner, outputs).map((v, i) => v * scales.data[Math.floor(i / inner)]!);
  for (const provider of providers)
    test(`value and gradient within 1 % of the float product, row by row, on ${provider}`, async () => {
      const { y, dx } = await valueAndGradient(provider, wide, { weight: ints, scale: scales }, steep, (i) =>
        ops.int8Linear(i.x!, i.weight!, i.scale!),
      );
      const floatY = product(wide, dense, outputs);
      const floatDx = product(steep, transposed(dense, outputs, inner), inner);
      for (let r = 0; r < rows; r++) {
        expect(relativeError(rowOf(y, r, outputs), rowOf(floatY, r, outputs))).toBeLessThan(0.01);
        expect(relativeError(rowOf(dx, r, inner), rowOf(floatDx, r, inner))).toBeLessThan(0.01);
      }
    });

  test("ONNX's own operators compute what ONNX Runtime's do", async () => {
    const feeds = { x: host(wide, "float32"), weight: host(ints, "float32"), scale: host(scales, "float32") };
    const traced = trace(feeds, (i) => ({ y: ops.int8Linear(i.x, i.weight, i.scale) }));
    const { bytes } = encode(traced, { provider: "onnx", values: () => new Float32Array() });
    const standard = await withModelFile(bytes, (file) => runPlain(file, feeds));
    const fused = await runOnce("cpu", traced, feeds);
    expectClose(numbers(standard.y!), numbers(fused.y!), 1e-5, "y");
  });

  // A row of the table is an output of the product.
  const table = values([3, 2], [1, -4, 2, 5, 3, -127], "int8");
  checkOp("the rows of a table as outputs", {
    inputs: { x: values([1, 2], [127, -64]), table, scale },
    fn: (i) => ops.int8TableProduct(i.x, i.table, i.scale),
    expected: [0.5 * (127 + 256), 2 * 127 - 5 * 64, 2 * (3 * 127 + 127 * 64)],
    gradient: false,
  });
  checkOp("rows looked up", {
    inputs: { ids: values([1, 2], [2, 0], "int64"), table, scale },
    fn: (i) => ops.int8Lookup(i.ids, i.table, i.scale),
    expected: [6, -254, 0.5, -2],
    gradient: false,
  });

  test("NaN stays NaN", async () => {
    const broken = values([1, 2], [Number.NaN, 1]);
    const { y } = await valueAndGradient("cpu", broken, { weight, scale }, values([1, 3], [1, 1, 1]), (i) =>
      ops.int8Linear(i.x!, i.weight!, i.scale!),
    );
    expect(y.every(Number.isNaN)).toBe(true);
  });

  checkSymbolic("int8Linear", {
    inputs: { x: ["b", "t", 2], w: [2, 3], s: [3] },
    make: { w: () => weight, s: () => scale },
    wrt: ["x"],
    sizes: [
      { b: 1, t: 1 },
      { b: 3, t: 2 },
    ],
    fn: (i) => ops.int8Linear(i.x, i.w, i.s),
  });
  checkRejects(
    "inner sizes",
    { x: ["float32", 2, 3], w: ["int8", 2, 3], s: ["float32", 3] },
    (i) => ops.int8Linear(i.x, i.w, i.s),
    /x has 3 inputs and the weight 2/,
  );
  checkRejects(
    "float weight",
    { x: ["float32", 2, 2], w: ["float32", 2, 3], s: ["float32", 3] },
    (i) => ops.int8Linear(i.x, i.w, i.s),
    /must be int8/,
  );
  checkRejects(
    "scale",
    { x: ["float32", 2, 2], w: ["int8", 2, 3], s: ["float32", 2] },
    (i) => ops.int8Linear(i.x, i.w, i.s),
    /one element for each of the 3 outputs/,
  );
});

describe("blockLinear", () => {
  for (const code of ["int4", "nf4"] as const) {
    const [outputs, blocks, block] = [3, 2, 16];
    const patterns = sample([outputs * blocks * block], 0, 15.99, 3).data.map(Math.floor);
    const bytes = Array.from({ length: patterns.length / 2 }, (_, i) => {
      const [first, second] = [patterns[2 * i]!, patterns[2 * i + 1]!];
      return code === "int4" ? first + 16 * second : 16 * first + second;
    });
    const packed: Values = { dtype: "uint8", shape: [outputs, blocks, block / 2], data: bytes };
    const scale = sample([outputs, blocks], -0.5, 0.5, 4);
    const dense = patterns.map((p, i) => ops.blockLevels[code][p]! * scale.data[Math.floor(i / block)]!);
    const x = sample([2, 1, blocks * block], -1, 1, 9);
    const several = sample([2, 3, blocks * block], -1, 1, 9);

    checkOp(`${code}, several rows`, {
      inputs: { x: several, packed, scale },
      fn: (i) => ops.blockLinear(i.x, i.packed, i.scale, code),
      expected: product(several, dense, outputs),
      gradient: false,
    });
    // int4 may round rows of one token to 8 bits.
    checkOp(`${code}, rows of one token`, {
      inputs: { x, packed, scale },
      fn: (i) => ops.blockLinear(i.x, i.packed, i.scale, code),
      expected: product(x, dense, outputs),
      gradient: false,
      tolerance: code === "int4" ? 0.02 : 1e-5,
    });
    checkOp(`${code}, unpacked`, {
      inputs: { packed, scale },
      fn: (i) => ops.unpackBlocks(i.packed, i.scale, code),
      expected: dense,
      gradient: false,
    });
    const seed = sample([2, 3, outputs], -1, 1, 8);
    for (const provider of providers)
      test(`${code}: the gradient is the float product on ${provider}`, async () => {
        const { dx } = await valueAndGradient(provider, several, { packed, scale }, seed, (i) =>
          ops.blockLinear(i.x!, i.packed!, i.scale!, code),
        );
        const expected = product(seed, transposed(dense, outputs, blocks * block), blocks * block);
        for (const [i, v] of dx.entries()) expect(v).toBeCloseTo(expected[i]!, 5);
      });
    checkSymbolic(code, {
      inputs: { x: ["b", "t", blocks * block], packed: [outputs, blocks, block / 2], scale: [outputs, blocks] },
      make: { packed: () => packed, scale: () => scale },
      wrt: ["x"],
      sizes: [
        { b: 1, t: 1 },
        { b: 3, t: 2 },
      ],
      fn: (i) => ops.blockLinear(i.x, i.packed, i.scale, code),
    });
  }
  checkRejects(
    "inner sizes",
    { x: ["float32", 2, 16], packed: ["uint8", 3, 2, 8], scale: ["float32", 3, 2] },
    (i) => ops.blockLinear(i.x, i.packed, i.scale, "int4"),
    /x has 16 inputs and the packed weight 32/,
  );
  checkRejects(
    "scale",
    { x: ["float32", 2, 32], packed: ["uint8", 3, 2, 8], scale: ["float32", 3, 1] },
    (i) => ops.blockLinear(i.x, i.packed, i.scale, "nf4"),
    /the scale must be \[3, 2\]/,
  );
});
