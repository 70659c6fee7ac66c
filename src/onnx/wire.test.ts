import { describe, expect, test } from "vitest";
import { onnx } from "../../tests/onnx-proto.ts";
import { type GraphProto, type NodeProto, writeModel } from "./model.ts";
import { Wire } from "./wire.ts";

const versions = { ir: 10, opset: 21, contrib: 1 };
const graph = (parts: Partial<GraphProto>): GraphProto => ({ name: "g", node: [], initializer: [], input: [], output: [], ...parts });
const node = (attribute: NodeProto["attribute"], name = "n"): NodeProto => ({
  opType: "Op",
  domain: "com.microsoft",
  name,
  input: ["a", "", "b"],
  output: ["y"],
  attribute,
});

describe("a model, read by a library for protocol buffers", () => {
  test("attributes of every kind", () => {
    const inner = graph({ node: [node([])], output: [{ name: "y", dtype: "float32", shape: [2] }] });
    const { graph: read } = onnx.ModelProto.decode(
      writeModel(
        graph({
          node: [
            node([
              { name: "int", int: -1 },
              { name: "large", int: 2 ** 52 + 1 },
              { name: "float", float: 0.25 },
              { name: "string", string: "bilinear" },
              { name: "ints", ints: [0, -2, 127, 128, 2 ** 40] },
              { name: "floats", floats: [1.5, Number.NEGATIVE_INFINITY] },
              { name: "graph", graph: inner },
            ]),
          ],
        }),
        versions,
      ),
    );
    const [n] = read!.node!;
    expect([n!.opType, n!.domain, n!.name, n!.input, n!.output]).toEqual(["Op", "com.microsoft", "n", ["a", "", "b"], ["y"]]);
    const [int, large, float, string, ints, floats, sub] = n!.attribute!;
    expect([int!.i, large!.i, ...ints!.ints!].map(Number)).toEqual([-1, 2 ** 52 + 1, 0, -2, 127, 128, 2 ** 40]);
    expect([float!.f, floats!.floats, new TextDecoder().decode(string!.s!)]).toEqual([0.25, [1.5, Number.NEGATIVE_INFINITY], "bilinear"]);
    expect([int, float, string, ints, floats, sub].map((a) => a!.type)).toEqual([2, 1, 3, 7, 6, 5]);
    expect([sub!.g!.node![0]!.name, sub!.g!.output![0]!.name]).toEqual(["n", "y"]);
  });

  test("tensors, within and without, and types", () => {
    const data = Uint8Array.from({ length: 20_000 }, (_, i) => i);
    const model = onnx.ModelProto.decode(
      writeModel(
        graph({
          initializer: [
            { name: "within", dtype: "uint8", shape: [100, 200], data },
            { name: "without", dtype: "bfloat16", shape: [3], data: { location: "w.safetensors", offset: 2 ** 33, byteLength: 6 } },
          ],
          input: [{ name: "x", dtype: "int64", shape: [4] }],
          output: [
            { name: "y", dtype: "bool", shape: [] },
            { name: "s", dtype: "float32", sequence: true },
          ],
        }),
        versions,
      ),
    );
    expect([Number(model.irVersion), model.opsetImport!.map((o) => [o.domain, Number(o.version)])]).toEqual([
      10,
      [
        ["", 21],
        ["com.microsoft", 1],
      ],
    ]);
    const [within, without] = model.graph!.initializer!;
    expect([within!.dims!.map(Number), within!.dataType, Uint8Array.from(within!.rawData!)]).toEqual([[100, 200], 2, data]);
    expect([without!.dataLocation, without!.externalData!.map((e) => [e.key, e.value])]).toEqual([
      1,
      [
        ["location", "w.safetensors"],
        ["offset", String(2 ** 33)],
        ["length", "6"],
      ],
    ]);
    const [y, s] = model.graph!.output!;
    expect([model.graph!.input![0]!.type!.tensorType!.shape!.dim!.map((d) => Number(d.dimValue)), y!.type!.tensorType!.shape!.dim]).toEqual(
      [[4], []],
    );
    expect(s!.type!.sequenceType!.elemType!.tensorType!.elemType).toBe(1);
  });

  test("names of every length and script, in messages of every size", () => {
    const names = [0, 1, 126, 127, 128, 129, 16_383, 16_384, 70_000].flatMap((n) => ["a".repeat(n), "ü".repeat(n), `${"a".repeat(n)}模`]);
    const read = onnx.ModelProto.decode(writeModel(graph({ node: names.map((name) => node([], name)) }), versions));
    expect(read.graph!.node!.map((n) => n.name)).toEqual(names);
  });

  test("a buffer that starts small grows", () => {
    const w = new Wire(1);
    w.message(1, () => w.bytes(2, new Uint8Array(300).fill(7)));
    const bytes = w.finish();
    expect([bytes.length, ...bytes.slice(0, 7)]).toEqual([306, 10, 0xaf, 2, 18, 0xac, 2, 7]);
  });
});
