import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { modelBytes, type TensorMessage } from "../../tests/onnx-models.ts";
import { onnx } from "../../tests/onnx-proto.ts";
import { parseOnnx } from "../onnx/decode/index.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { openOnnx } from "./onnx-file.ts";
import { refusal } from "./refusal.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-onnx-file-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const T = onnx.TensorProto.DataType;

/** A file with one initialiser "w", opened. */
function opened(tensor: TensorMessage, pad = 0) {
  const file = join(directory, "model.onnx");
  writeFileSync(
    file,
    modelBytes({
      nodes: [{ op: "Neg", in: ["x".repeat(pad)], out: [] }],
      outputs: [],
      initializers: { w: { dims: [], dataType: T.FLOAT, ...tensor } },
    }),
  );
  const open = openOnnx(file);
  return open.storage(open.graph.initializers.get("w")!);
}

function values(tensor: TensorMessage) {
  const storage = opened(tensor);
  return { dtype: storage.dtype, shape: storage.shape, values: Array.from(readStorage(storage) as ArrayLike<number | bigint>) };
}

const bytesOf = (array: { buffer: ArrayBufferLike; byteLength: number }) => new Uint8Array(array.buffer, 0, array.byteLength);

describe("values are read wherever exporters put them", () => {
  test.each<[string, TensorMessage, string, readonly (number | bigint)[]]>([
    ["raw floats", { dims: [2], rawData: bytesOf(Float32Array.of(1.5, -2)) }, "float32", [1.5, -2]],
    ["raw int64", { dims: [1], dataType: T.INT64, rawData: bytesOf(BigInt64Array.of(-(2n ** 63n))) }, "int64", [-(2n ** 63n)]],
    ["float_data", { dims: [3], floatData: [1, 2.5, -3] }, "float32", [1, 2.5, -3]],
    ["double_data", { dims: [1], dataType: T.DOUBLE, doubleData: [1 / 3] }, "float64", [1 / 3]],
    ["int64_data", { dims: [3], dataType: T.INT64, int64Data: [-1, 5, 2 ** 40] }, "int64", [-1n, 5n, 2n ** 40n]],
    ["int32_data for int32", { dims: [2], dataType: T.INT32, int32Data: [-7, 8] }, "int32", [-7, 8]],
    ["int32_data for int8", { dims: [2], dataType: T.INT8, int32Data: [-7, 8] }, "int8", [-7, 8]],
    ["int32_data for bool", { dims: [2], dataType: T.BOOL, int32Data: [1, 0] }, "bool", [1, 0]],
    ["int32_data for float16, widened", { dims: [2], dataType: T.FLOAT16, int32Data: [0x3c00, 0xc000] }, "float32", [1, -2]],
    ["raw bfloat16, widened", { dims: [2], dataType: T.BFLOAT16, rawData: bytesOf(Uint16Array.of(0x3f80, 0xc000)) }, "float32", [1, -2]],
    ["4-bit integers", { dims: [3], dataType: 22, rawData: Uint8Array.of(0x8f, 0x07) }, "int8", [-1, -8, 7]],
    ["4-bit unsigned integers", { dims: [3], dataType: 21, rawData: Uint8Array.of(0x8f, 0x07) }, "uint8", [15, 8, 7]],
    ["a scalar", { floatData: [4] }, "float32", [4]],
    ["none", { dims: [0, 3] }, "float32", []],
  ])("%s", (_name, tensor, dtype, expected) => {
    expect(values(tensor)).toMatchObject({ dtype, values: expected });
  });

  test("raw data is mapped from the file wherever it is aligned", () => {
    const kinds = new Set<string>();
    for (let pad = 0; pad < 4; pad++) {
      const storage = opened({ dims: [2], rawData: bytesOf(Float32Array.of(1.5, -2)) }, pad);
      expect(Array.from(readStorage(storage) as Float32Array)).toEqual([1.5, -2]);
      if (storage.kind === "file") expect(storage.offset % 4).toBe(0);
      kinds.add(storage.kind);
    }
    expect([...kinds].sort()).toEqual(["file", "lazy"]);
  });
});

describe("what does not fit is refused", () => {
  const message = (tensor: TensorMessage) => refusal(() => readStorage(opened(tensor)), directory);
  test.each<[string, TensorMessage, RegExp]>([
    ["too few bytes", { dims: [3], rawData: new Uint8Array(8) }, /…\/model\.onnx: tensor "w": float32 \[3\] needs 12 bytes, but it has 8/],
    ["a shape larger than memory", { dims: [2 ** 40, 2 ** 40], floatData: [1] }, /is no shape/],
    ["a shape larger than its values", { dims: [2 ** 40], floatData: [1] }, /1099511627776 elements, but its 4 bytes hold fewer/],
    ["a negative size", { dims: [-1], floatData: [1] }, /\[-1\] is no shape/],
    ["more values than the shape", { dims: [1], dataType: T.INT64, int64Data: [1, 2] }, /1 elements, but 2 values/],
    ["a type of other systems", { dims: [1], dataType: T.STRING, stringData: [new Uint8Array(1)] }, /its type string is none/],
  ])("%s", (_name, tensor, expected) => {
    const { code, message: text } = message(tensor);
    expect(code).toBe("onnx-tensor");
    expect(text).toMatch(expected);
  });
});

describe("external data", () => {
  const external = (entries: Record<string, string>, dims = [2]): TensorMessage => ({
    dims,
    dataLocation: onnx.TensorProto.DataLocation.EXTERNAL,
    externalData: Object.entries(entries).map(([key, value]) => ({ key, value })),
  });
  beforeAll(() => {
    writeFileSync(join(directory, "weights.bin"), bytesOf(Float32Array.of(9, 1.5, -2)));
    mkdirSync(join(directory, "deeper"));
    writeFileSync(join(directory, "deeper", "more.bin"), bytesOf(Float32Array.of(3, 4)));
  });

  test("stays in its file", () => {
    const storage = opened(external({ location: "weights.bin", offset: "4", length: "8" }));
    expect(storage).toMatchObject({ kind: "file", offset: 4, byteLength: 8 });
    expect(Array.from(readStorage(storage) as Float32Array)).toEqual([1.5, -2]);
    expect(values(external({ location: "deeper/more.bin" })).values).toEqual([3, 4]);
  });
  test("of another file system's link, as download caches have them", () => {
    symlinkSync(join(directory, "weights.bin"), join(directory, "link.bin"));
    expect(values(external({ location: "link.bin", offset: "0" })).values).toEqual([9, 1.5]);
  });
  test.each(["/etc/passwd", "../weights.bin", "deeper/../../weights.bin", "", ".", "a\0b"])(
    "outside of the model's directory is refused: %j",
    (location) => {
      const { code, message } = refusal(() => opened(external({ location })), directory);
      expect(code).toBe("onnx-external");
      expect(message).toMatch(/tensor "w".*not within the model's directory/);
    },
  );
  test.each<[Record<string, string>, RegExp]>([
    [{ location: "gone.bin" }, /gone\.bin, which cannot be read/],
    [{ location: "deeper" }, /end at byte 8 of .*deeper/],
    [{ location: "weights.bin", offset: "8" }, /end at byte 16 of .*weights\.bin, which has 12/],
    [{ location: "weights.bin", offset: "-4" }, /8 bytes from -4/],
    [{ location: "weights.bin", offset: "1e300" }, /8 bytes from 1e\+300/],
    [{ location: "weights.bin", length: "12" }, /needs 8 bytes, but it has 12/],
  ])("%j is refused", (entries, expected) => {
    expect(refusal(() => opened(external(entries)), directory).message).toMatch(expected);
  });
});

test("a file that is no model says what it may be", () => {
  const file = join(directory, "pointer.onnx");
  writeFileSync(file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  expect(refusal(() => openOnnx(file), directory)).toMatchObject({
    code: "onnx-damaged",
    message: expect.stringMatching(/…\/pointer\.onnx.*git lfs pull/),
  });
  expect(refusal(() => openOnnx(join(directory, "none.onnx")), directory).code).toBe("checkpoint-missing");
});

const fixtures = readdirSync("tests/fixtures").filter((name) => name.startsWith("onnx-"));

test.each(fixtures)("%s is read as the protobuf library reads it", (name) => {
  const bytes = readFileSync(join("tests/fixtures", name, "model.onnx"));
  const expected = onnx.ModelProto.decode(bytes);
  const actual = parseOnnx(bytes, name);
  expect([...actual.opsets]).toEqual(expected.opsetImport.map((o) => [o.domain === "ai.onnx" ? "" : (o.domain ?? ""), Number(o.version)]));
  const graph = expected.graph!;
  expect(actual.graph.nodes.map((n) => [n.opType, n.name, n.domain, n.inputs, n.outputs])).toEqual(
    graph.node!.map((n) => [n.opType, n.name, n.domain, n.input, n.output]),
  );
  for (const [i, node] of graph.node!.entries()) {
    for (const a of node.attribute!) {
      const found = actual.graph.nodes[i]!.attributes.get(a.name!)!;
      if (found.kind === "int") expect(found.value).toBe(Number(a.i));
      else if (found.kind === "ints") expect(found.value).toEqual(a.ints!.map(Number));
      else if (found.kind === "float") expect(found.value).toBe(a.f);
      else if (found.kind === "string") expect(found.value).toBe(new TextDecoder().decode(a.s!));
      else expect(found.kind).toBe("tensor");
    }
  }
  expect([...actual.graph.initializers.values()].map((t) => [t.name, t.shape, t.typeCode])).toEqual(
    graph.initializer!.map((t) => [t.name, t.dims!.map(Number), t.dataType]),
  );
});
