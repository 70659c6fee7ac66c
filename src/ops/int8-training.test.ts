import { afterAll, describe, expect, test } from "vitest";
import { runPlain, withModelFile } from "../../tests/onnx-models.ts";
import { checkOp, checkRejects, expectClose, host, numbers, runOnce, sample, type Values, values } from "../../tests/ops/harness.ts";
import { grad } from "../autodiff/index.ts";
import { read, type Traced, trace, Variable } from "../graph/index.ts";
import { Linear, ones } from "../nn/index.ts";
import { encode } from "../onnx/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import * as ops from "./index.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

/** A matrix rounded as the operator rounds it: to 127ths of the largest magnitude of the whole, or of each row. */
function rounded({ data, shape }: Values, by: "row" | "matrix"): Values {
  const width = by === "row" ? shape.at(-1)! : data.length;
  const largest = (i: number) => {
    const from = Math.floor(i / width) * width;
    return Math.max(...data.slice(from, from + width).map(Math.abs));
  };
  return { dtype: "float32", shape, data: data.map((v, i) => (Math.round((v / largest(i)) * 127) / 127) * largest(i)) };
}

/** Σ a[r, k] · b(k, c). */
const product = (rows: number, inner: number, columns: number, a: (r: number, k: number) => number, b: (k: number, c: number) => number) =>
  Array.from({ length: rows * columns }, (_, i) => {
    let total = 0;
    for (let k = 0; k < inner; k++) total += a(Math.floor(i / columns), k) * b(k, i % columns);
    return total;
  });
const at =
  ({ data, shape }: Values) =>
  (r: number, c: number) =>
    data[r * shape[1]! + c]!;
const flipped = (m: (r: number, c: number) => number) => (r: number, c: number) => m(c, r);

describe("trainedInt8Product", () => {
  // Whole numbers of 127ths of the largest everywhere: nothing is rounded.
  const x = values([2, 1, 2], [127, -64, 0.002, 0.127]);
  checkOp("a product without rounding", {
    inputs: { x, weight: values([3, 2], [1, -4, 2, 5, 3, -127]) },
    fn: (i) => ops.trainedInt8Product(i.x, i.weight, { transpose: true }),
    expected: [127 + 256, 254 - 320, 381 + 8128, 0.002 - 0.508, 0.004 + 0.635, 0.006 - 16.129],
    gradient: false,
  });
  checkOp("zeros", {
    inputs: { x: values([1, 2], [0, 0]), weight: values([2, 1], [0, 0]) },
    fn: (i) => ops.trainedInt8Product(i.x, i.weight, { transpose: false }),
    expected: [0],
    gradient: false,
  });
  checkRejects(
    "sizes that differ",
    { x: ["float32", 1, 2], weight: ["float32", 2, 3] },
    (i) => ops.trainedInt8Product(i.x, i.weight, { transpose: true }),
    /x has 2 inputs and the weight 3/,
  );

  const [rows, inner, outputs] = [7, 40, 24];
  const [input, seed] = [sample([rows, inner], -1, 1, 1), sample([rows, outputs], -1, 1, 2)];
  // Rows of the gradient that differ by 10⁶, as those of a loss do.
  const steep = { ...seed, data: seed.data.map((v, i) => v * 10 ** -Math.floor(i / outputs)) };
  for (const transpose of [true, false])
    test(`value and gradients are those of the rounded operands, ${transpose ? "[out, in]" : "[in, out]"}`, async () => {
      const weight = sample(transpose ? [outputs, inner] : [inner, outputs], -0.3, 0.3, 3);
      const feeds = { x: host(input, "float32"), weight: host(weight, "float32"), seed: host(steep, "float32") };
      const traced = trace(feeds, (i) => {
        const y = ops.trainedInt8Product(i.x, i.weight, { transpose });
        const [dx, dw] = grad(ops.sum(ops.mul(y, i.seed)), [i.x, i.weight]);
        return { y, dx: dx!, dw: dw! };
      });
      const results = await runOnce("cpu", traced, feeds);
      const w = at(rounded(weight, "matrix"));
      const [inOut, outIn] = transpose ? [flipped(w), w] : [w, flipped(w)];
      expectClose(numbers(results.y!), product(rows, inner, outputs, at(rounded(input, "row")), inOut), 1e-5, "y");
      expectClose(numbers(results.dx!), product(rows, outputs, inner, at(rounded(steep, "row")), outIn), 1e-5, "dx");
      // Straight-through, and not rounded.
      const dw = transpose
        ? product(outputs, rows, inner, flipped(at(steep)), at(input))
        : product(inner, rows, outputs, flipped(at(input)), at(steep));
      expectClose(numbers(results.dw!), dw, 1e-5, "dw");
      const { bytes } = encode(traced, { provider: "onnx", values: () => new Float32Array() });
      const standard = await withModelFile(bytes, (file) => runPlain(file, feeds));
      expectClose(numbers(standard.y!), numbers(results.y!), 1e-5, "y by ONNX's own operators");
    });
});

describe("computingIn int8", () => {
  const opsOf = ({ graph }: Traced) => graph.nodes.map((n) => n.op.name);
  const traceLinear = (layer: Linear) =>
    trace({ x: { dtype: "float32", shape: [2, 3, layer.inFeatures] } }, ({ x }) =>
      ops.computingIn("int8", () => {
        const y = layer.forward(x!);
        const [dx] = grad(ops.sum(ops.mul(y, y)), [x!]);
        return { dx: dx! };
      }),
    );
  const linear = (inputs: number, outputs: number, layout: "out-in" | "in-out" = "out-in") =>
    new Linear(inputs, outputs, { init: ones, layout });

  test("products with trained matrices are computed so, forwards and backwards", () => {
    for (const layout of ["out-in", "in-out"] as const) {
      const found = opsOf(traceLinear(linear(64, 96, layout)));
      expect(found.filter((name) => name === "TrainedInt8Product").length).toBe(2);
    }
  });
  test("frozen, thin and head-like ones, and products of activations, are not", () => {
    const frozen = linear(64, 96);
    frozen.freeze();
    for (const layer of [frozen, linear(64, 8), linear(8, 64), linear(64, 512)])
      expect(opsOf(traceLinear(layer))).not.toContain("TrainedInt8Product");
    const shape = [1, 2, 64, 64];
    const traced = trace({ q: { dtype: "float32", shape } }, ({ q }) => ops.computingIn("int8", () => ({ y: ops.attention(q!, q!, q!) })));
    expect(opsOf(traced)).not.toContain("TrainedInt8Product");
  });

  test("the logits of a trained head, chunk by chunk, with a scale for each output; a frozen head's stay in float32", async () => {
    const [rows, width, vocabulary] = [6, 64, 50];
    const [hidden, table] = [sample([rows, width], -1, 1, 4), sample([vocabulary, width], -1, 1, 5)];
    const scaled = { ...table, data: table.data.map((v, i) => v * (1 + (Math.floor(i / width) % 5))) };
    const targets = hostTensor("int64", [rows], BigInt64Array.of(1n, 2n, 49n, 30n, 7n, 0n));
    const lossesIn = async (compute: ops.ComputeDtype, frozen: boolean) => {
      const type = { dtype: "float32", shape: [vocabulary, width] } as const;
      const head = new Variable("head", type, { kind: "memory", ...type, data: Float32Array.from(scaled.data) }, { frozen });
      const feeds = { hidden: host(hidden, "float32"), targets };
      const traced = trace(feeds, (i) =>
        ops.computingIn(compute, () => {
          const { losses } = ops.linearCrossEntropy(i.hidden, read(head), i.targets, { chunk: 4 });
          const [dx] = grad(ops.sum(losses), [i.hidden]);
          return { losses, dx: dx! };
        }),
      );
      const program = await device.compile(traced);
      const results = await program.run(feeds);
      await program.dispose();
      return [numbers(results.losses!), numbers(results.dx!)] as const;
    };
    const logits = product(rows, width, vocabulary, at(rounded(hidden, "row")), flipped(at(rounded(scaled, "row"))));
    const expected = Array.from({ length: rows }, (_, r) => {
      const row = logits.slice(r * vocabulary, (r + 1) * vocabulary);
      return Math.log(row.reduce((sum, z) => sum + Math.exp(z), 0)) - row[Number(targets.data[r])]!;
    });
    const [losses, dx] = await lossesIn("int8", false);
    expectClose(losses, expected, 1e-5, "losses");
    const [float, floatDx] = await lossesIn("float32", false);
    expect(Math.max(...losses.map((v, i) => Math.abs(v - float[i]!)))).toBeGreaterThan(1e-4);
    expect(Math.max(...dx.map((v, i) => Math.abs(v - floatDx[i]!)))).toBeLessThan(0.2);
    expect((await lossesIn("int8", true))[0]).toEqual((await lossesIn("float32", true))[0]);
  });
});
