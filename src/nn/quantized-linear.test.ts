import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { grad } from "../autodiff/index.ts";
import { Random, type Storage, trace } from "../graph/index.ts";
import { mul, sum } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { normal, zeros } from "./initializers.ts";
import { Linear, type LinearLayout } from "./layers.ts";
import { floats } from "./module.ts";
import { blockSize, type QuantizedDType } from "./quantize.ts";
import { type FloatStream, QuantizedLinear } from "./quantized-linear.ts";

const device = cpu({ threads: 1 });

/** Small values in parts of 7 elements, so that no row is a part. */
const stream: FloatStream = (storage, take) => {
  const data = (storage.kind === "lazy" ? storage.load() : (storage as { data: Float32Array }).data) as Float32Array;
  const part = data.length > 1e6 ? data.length : 7;
  for (let i = 0; i < data.length; i += part) take(data.subarray(i, i + part));
};

function linearOf(weight: number[], [outputs, inputs]: [number, number], layout: LinearLayout = "out-in"): Linear {
  const linear = new Linear(inputs, outputs, { init: zeros, layout }).freeze().assignNames();
  const data = layout === "out-in" ? weight : Array.from(weight, (_, i) => weight[(i % outputs) * inputs + Math.floor(i / outputs)]!);
  linear.weight.storage = floats(linear.weight.shape, Float32Array.from(data));
  return linear;
}

const dense = (layer: QuantizedLinear) => Array.from(layer.denseWeight((v) => device.read(v).data));

async function outputs(layer: QuantizedLinear | Linear, rows: number[][]): Promise<number[]> {
  const x = hostTensor("float32", [rows.length, rows[0]!.length], Float32Array.from(rows.flat()));
  const program = await device.compile(trace({ x }, (i) => ({ y: layer.forward(i.x) })));
  return Array.from((await program.run({ x })).y!.data as Float32Array);
}

describe("what is stored", () => {
  for (const layout of ["out-in", "in-out"] as const)
    test(`int8, ${layout}: 127 steps to the largest magnitude of each output`, () => {
      const layer = new QuantizedLinear(linearOf([1.27, -0.64, 0.004, 0, 0, -254], [2, 3], layout), "int8", stream);
      // 0.004 is less than half a step of 0.01; a step of the second row is 2.
      expect(dense(layer).map((v) => Number(v.toFixed(6)))).toEqual([1.27, -0.64, 0, 0, 0, -254]);
    });

  test("int4: the largest magnitude of a block becomes −8, whatever its sign", () => {
    const row = Array.from({ length: 32 }, (_, i) => (i === 3 ? 8 : i === 4 ? -8 : i === 5 ? 2.4 : i === 6 ? -7 : 0));
    const layer = new QuantizedLinear(linearOf(row, [1, 32]), "int4", stream);
    // The step is −1: 8 is kept, −8 would be 8 steps up, of which there are 7.
    expect(dense(layer).slice(0, 8)).toEqual([0, 0, 0, 8, -7, 2, -7, 0].map((v) => (v === 0 ? expect.closeTo(0) : v)));
  });

  test("nf4: levels of a normal distribution, times the largest magnitude of the block", () => {
    const row = Array.from({ length: 64 }, (_, i) => (i === 0 ? -2 : i === 1 ? 0.9 : i === 2 ? 0.15 : 0));
    const layer = new QuantizedLinear(linearOf(row, [1, 64]), "nf4", stream);
    // 0.45 lies nearest to 0.4407, 0.075 nearest to 0.0796.
    expect(dense(layer).slice(0, 4)).toEqual([-2, expect.closeTo(2 * 0.44070982933, 6), expect.closeTo(2 * 0.07958029955, 6), 0]);
  });

  test("blocks shrink to what divides a row, and 16 is the least", () => {
    expect([blockSize("nf4", 576), blockSize("nf4", 96), blockSize("int4", 48)]).toEqual([64, 32, 16]);
    expect(() => blockSize("int4", 40)).toThrow(/40 inputs cannot be stored as int4/);
  });

  test("zeros stay zeros, and NaN is refused", () => {
    expect(dense(new QuantizedLinear(linearOf(Array(64).fill(0), [2, 32]), "int4", stream)).every((v) => v === 0)).toBe(true);
    expect(() => new QuantizedLinear(linearOf([Number.NaN, 1], [1, 2]), "int8", stream)).toThrow(/NaN or infinite/);
  });
});

describe("the layer", () => {
  const random = new Random(3);
  const weight = Array.from({ length: 24 * 64 }, () => random.normal() * 0.02);
  const rows = Array.from({ length: 5 }, () => Array.from({ length: 64 }, () => random.normal()));
  // Shares of a weight's size that rounding may cost; N(0, σ) has 4 standard deviations in a row and little more than 2 in a block.
  const limits: Record<QuantizedDType, number> = { int8: 0.015, int4: 0.12, nf4: 0.1 };
  for (const dtype of ["int8", "int4", "nf4"] as const)
    for (const layout of ["out-in", "in-out"] as const)
      test(`${dtype}, ${layout}: near the float layer, and no parameter but the bias`, async () => {
        const linear = linearOf(weight, [24, 64], layout);
        const expected = await outputs(linear, rows);
        const layer = new QuantizedLinear(linear, dtype, stream);
        const y = await outputs(layer, rows);
        const size = (v: readonly number[]) => Math.hypot(...v);
        expect(size(y.map((v, i) => v - expected[i]!)) / size(expected)).toBeLessThan(limits[dtype]);
        expect(layer.parameters()).toEqual([]);
      });

  test("has its bias", async () => {
    const linear = new Linear(16, 2, { init: zeros, bias: true }).freeze().assignNames();
    linear.bias!.storage = floats([2], Float32Array.of(3, -4));
    const layer = new QuantizedLinear(linear, "nf4", stream);
    expect(await outputs(layer, [Array(16).fill(1)])).toEqual([3, -4]);
    expect(Array.from(layer.namedParameters(), ([name]) => name)).toEqual(["bias"]);
  });

  test("values that are computed from a file are quantised when asked for, and not held", async () => {
    let loads = 0;
    const values = Float32Array.from(weight);
    const load = () => {
      loads++;
      return values;
    };
    const linear = new Linear(64, 24, { init: normal(new Random(0), 1) }).freeze();
    linear.weight.storage = { kind: "lazy", dtype: "float32", shape: [24, 64], load } satisfies Storage;
    const layer = new QuantizedLinear(linear, "int8", stream);
    expect(loads).toBe(0);
    expect(await outputs(layer, rows)).toEqual(await outputs(new QuantizedLinear(linearOf(weight, [24, 64]), "int8", stream), rows));
    expect(loads).toBe(1);
  });
});

describe("memory", () => {
  const [width, layers] = [1024, 24];
  const anonymous = () => Number(/RssAnon:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
  const values = Float32Array.from({ length: width * width }, (_, i) => ((i * 7919) % 1000) / 1e5 - 0.005);

  // Folded or unpacked ahead of time, the weights would take one to three times their size as floats; one at a time takes tens of megabytes.
  for (const dtype of ["int8", "int4", "nf4"] as const)
    test.skipIf(!existsSync("/proc/self/status"))(`${dtype}: forward and backward keep no float copy of the weights`, async () => {
      const stack = Array.from({ length: layers }, (_, i) => {
        const linear = new Linear(width, width, { init: zeros }).freeze().assignNames();
        linear.weight.name = `layers.${i}.weight`;
        linear.weight.storage = { kind: "lazy", dtype: "float32", shape: [width, width], load: () => values };
        return new QuantizedLinear(linear, dtype, stream);
      });
      const x = hostTensor("float32", [2, width], new Float32Array(2 * width).fill(1));
      const before = anonymous();
      const program = await device.compile(
        trace({ x }, (i) => {
          const y = stack.reduce((h, layer) => layer.forward(h), i.x);
          return { dx: grad(sum(mul(y, y)), [i.x])[0]! };
        }),
      );
      await program.run({ x });
      await program.run({ x });
      const grown = anonymous() - before;
      await program.dispose();
      expect(grown).toBeLessThan(layers * width * width * 4 * (dtype === "int8" ? 0.5 : 0.9));
    });
});
