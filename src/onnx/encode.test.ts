import { describe, expect, test } from "vitest";
import { onnx } from "../../tests/onnx-proto.ts";
import { EspalierError, type Tensor, trace } from "../graph/index.ts";
import { add, exp } from "../ops/index.ts";
import { encode } from "./index.ts";

const model = (inputName: string, fn: (x: Tensor) => Record<string, Tensor>) =>
  onnx.ModelProto.decode(
    encode(
      trace({ [inputName]: { dtype: "float32", shape: [2] } }, (inputs) => fn(inputs[inputName]!)),
      { values: () => new Float32Array() },
    ).bytes,
  ).graph!;

describe("names", () => {
  test("of inputs and outputs are kept, whatever nodes and literals would be called", () => {
    const graph = model("Add", (x) => ({ Exp: exp(x), literal: add(x, 3) }));
    expect(graph.input!.map((i) => i.name)).toEqual(["Add"]);
    expect(graph.output!.map((o) => o.name)).toEqual(["Exp", "literal"]);
    const defined = [
      ...graph.input!.map((i) => i.name),
      ...graph.initializer!.map((i) => i.name),
      ...graph.node!.flatMap((n) => n.output!),
    ];
    expect(new Set(defined).size).toBe(defined.length);
  });
  test("an input and an output cannot share one", () => {
    expect(() => model("x", (x) => ({ x: exp(x) }))).toThrow(EspalierError);
    expect(() => model("x", (x) => ({ x: exp(x) }))).toThrow(/both an input and an output named "x"/);
  });
});
