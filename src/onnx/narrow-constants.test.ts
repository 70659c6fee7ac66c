import { describe, expect, test } from "vitest";
import { onnx } from "../../tests/onnx-proto.ts";
import { device, providers } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { type MemoryStorage, read, trace, Variable } from "../graph/index.ts";
import { embedding, linear, mul, sum, when } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { encode } from "./index.ts";

/** [3, 2]; 1.001 is 1 in bfloat16 and 1 + 2⁻¹⁰ in float16. */
const table = (constantDtype: "bfloat16" | "float16" | undefined, frozen = true) => {
  const storage: MemoryStorage = { kind: "memory", dtype: "float32", shape: [3, 2], data: Float32Array.of(1.001, 2, 3, -4, 5, 6) };
  const v = new Variable("table", storage, storage, { frozen });
  v.constantDtype = constantDtype;
  return v;
};
const first = { bfloat16: 1, float16: 1 + 2 ** -10 };
const x = hostTensor("float32", [1, 2], Float32Array.of(1, 0));
const ids = hostTensor("int64", [1, 2], BigInt64Array.of(0n, 2n));
const gate = (open: boolean) => hostTensor("bool", [], Uint8Array.of(open ? 1 : 0));

/** Looked up, multiplied by, its own output, and read in a branch. */
const traced = (w: Variable) =>
  trace({ x, ids, gate: { dtype: "bool", shape: [] } }, (inputs) => {
    const y = linear(inputs.x, read(w));
    const [branch] = when(
      inputs.gate,
      () => [linear(inputs.x, read(w))],
      () => [mul(y, 0)],
    );
    return { rows: embedding(inputs.ids, read(w)), y, whole: read(w), branch: branch!, dx: grad(sum(mul(y, y)), [inputs.x])[0]! };
  });

describe.each(providers)("on %s", (provider) => {
  test.each(["bfloat16", "float16"] as const)("a weight held in %s computes in float32, wherever it is read", async (dtype) => {
    const host = await device(provider);
    const w = table(dtype);
    if (provider === "webgpu" && dtype === "bfloat16") {
      await expect(host.compile(traced(w))).rejects.toThrow(/"table" is to be held in bfloat16, which WebGPU does not know/);
      return;
    }
    const program = await host.compile(traced(w));
    const a = first[dtype];
    // Graphics processors may lack 16-bit floats altogether, as the one that is emulated in tests does.
    const refusal = await program.run({ x, ids, gate: gate(true) }).catch((error: Error) => error.message);
    if (provider === "webgpu" && typeof refusal === "string") {
      expect(refusal).toMatch(/requires f16 but the device does not support it/);
      return;
    }
    for (const open of [true, false]) {
      const out = Object.fromEntries(
        Object.entries(await program.run({ x, ids, gate: gate(open) })).map(([k, t]) => [k, Array.from(t.data as Float32Array)]),
      );
      expect(out).toEqual({
        rows: [a, 2, 5, 6],
        y: [a, 3, 5],
        whole: [a, 2, 3, -4, 5, 6],
        branch: open ? [a, 3, 5] : [0, 0, 0],
        dx: [2 * (a * a + 9 + 25), 2 * (2 * a - 12 + 30)].map(Math.fround),
      });
    }
    expect(host.read(w).data[0]).toBe(a);
    await program.dispose();
  });
});

test("a variable that is trained is float32", async () => {
  const host = await device("cpu");
  const w = table("bfloat16", false);
  const program = await host.compile(trace({}, () => ({ w: read(w) })));
  expect((await program.run()).w!.data[0]).toBe(Math.fround(1.001));
  expect(host.read(w).data[0]).toBe(Math.fround(1.001));
});

test("each reader widens for itself; rows of a table are widened, not the table", () => {
  const { bytes } = encode(traced(table("bfloat16")), { values: () => new Uint16Array(6) });
  const graph = onnx.ModelProto.decode(bytes).graph!;
  const casts = graph.node!.filter((n) => n.opType === "Cast");
  // linear, its gradient, the output, and the rows; the branch has its own.
  expect(casts.map((n) => n.input![0])).toEqual(["table", "table", "table", expect.stringContaining("Gather")]);
  expect(graph.initializer!.find((i) => i.name === "table")!.dataType).toBe(onnx.TensorProto.DataType.BFLOAT16);
});

test("a large weight is widened part by part", async () => {
  const [rows, width] = [4100, 2050];
  const data = Float32Array.from({ length: rows * width }, (_, i) => Math.floor(i / width) % 251);
  const w = new Variable(
    "w",
    { dtype: "float32", shape: [rows, width] },
    { kind: "memory", dtype: "float32", shape: [rows, width], data },
    { frozen: true },
  );
  w.constantDtype = "bfloat16";
  const row = hostTensor(
    "float32",
    [1, width],
    Float32Array.from({ length: width }, (_, i) => (i === 7 ? 1 : 0)),
  );
  const traced = trace({ row }, (inputs) => ({ y: linear(inputs.row, read(w)) }));
  const { bytes } = encode(traced, { external: () => ({ location: "w", offset: 0, byteLength: 2 * data.length }), values: () => data });
  const ops = onnx.ModelProto.decode(bytes).graph!.node!.map((n) => n.opType);
  expect(ops).toEqual(["Slice", "Cast", "Slice", "Cast", "FusedMatMul", "FusedMatMul", "Concat"]);
  const program = await (await device("cpu")).compile(traced);
  expect(Array.from((await program.run({ row })).y!.data as Float32Array)).toEqual(Array.from({ length: rows }, (_, i) => i % 251));
  await program.dispose();
});
