import { afterAll, describe, expect, test } from "vitest";
import { f32, graphProto, i64, type ModelSpec, modelBytes, runPlain, sampled, withModelFile } from "../../../tests/onnx-models.ts";
import { onnx } from "../../../tests/onnx-proto.ts";
import { EspalierError, symbol, trace } from "../../graph/index.ts";
import { type OnnxModelOptions, openOnnxModel, saveOnnx } from "../../models/index.ts";
import { LinearLayer, type Parameter } from "../../nn/index.ts";
import { cpu } from "../../runtime/node.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

const opened = <T>(
  spec: ModelSpec,
  use: (model: ReturnType<typeof openOnnxModel>, file: string) => T | Promise<T>,
  options?: OnnxModelOptions,
) => withModelFile(modelBytes(spec), (file) => use(openOnnxModel(file, options), file));

/** The refusal of tracing a model of this graph. */
async function refused(spec: ModelSpec): Promise<{ code: string; message: string }> {
  return opened(spec, (model, file) => {
    try {
      model.trace();
    } catch (error) {
      if (!(error instanceof EspalierError)) throw error;
      expect(error.message).toContain(file);
      return { code: error.code, message: error.message };
    }
    throw new Error("nothing was refused");
  });
}

describe("sizes stay symbols through the arithmetic that exporters write", () => {
  test("Shape, Gather, arithmetic and Concat give a Reshape its dims", () =>
    opened(
      {
        inputs: { x: ["float32", "batch", "time", 6] },
        initializers: { zero: i64([], 0), one: i64([], 1), two: i64([1], 2), three: i64([1], 3), axes: i64([1], 0) },
        nodes: [
          { op: "Shape", in: ["x"], out: ["shape"] },
          { op: "Gather", in: ["shape", "zero"], out: ["b"] },
          { op: "Gather", in: ["shape", "one"], out: ["t"] },
          { op: "Mul", in: ["b", "t"], out: ["bt"] },
          { op: "Unsqueeze", in: ["bt", "axes"], out: ["rows"] },
          { op: "Concat", in: ["rows", "two", "three"], out: ["wanted"], attrs: { axis: 0 } },
          { op: "Reshape", in: ["x", "wanted"], out: ["y"] },
        ],
        outputs: ["y"],
      },
      async (model) => {
        expect(model.trace().outputs.y!.shape.map(String)).toEqual(["batch*time", "2", "3"]);
        const program = await device.compile(model.trace());
        for (const [b, t] of [
          [1, 2],
          [3, 5],
        ] as const) {
          const x = sampled([b, t, 6]);
          expect((await program.run({ x })).y).toMatchObject({ shape: [b * t, 2, 3], data: x.data });
        }
      },
    ));

  // A mask of [batch, total] is added to scores over past + new tokens: only then does the file run, and only the graph says so.
  const masked: ModelSpec = {
    inputs: { past: ["float32", "batch", "past"], x: ["float32", "batch", "time"], mask: ["float32", "batch", "total"] },
    nodes: [
      { op: "Concat", in: ["past", "x"], out: ["all"], attrs: { axis: 1 } },
      { op: "Add", in: ["all", "mask"], out: ["y"] },
    ],
    outputs: ["y"],
  };
  test("two names of one size are found to be one", () =>
    opened(masked, async (model) => {
      const sum = symbol("past").toString();
      expect(model.inputs.map(({ name, shape }) => `${name} ${shape.join(" ")}`)).toEqual([
        `past batch ${sum}`,
        "x batch time",
        "mask batch past + time",
      ]);
      const feeds = { past: sampled([2, 3], 1), x: sampled([2, 1], 2), mask: sampled([2, 4], 3) };
      const program = await device.compile(model.trace());
      expect((await program.run(feeds)).y!.shape).toEqual([2, 4]);
      await expect(program.run({ ...feeds, mask: sampled([2, 5]) })).rejects.toThrow(/must be 4/);
    }));
  test("and are asked for where the caller names other ones", () =>
    opened(masked, (model) => {
      const type = (...names: string[]) => ({ dtype: "float32" as const, shape: names.map(symbol) });
      const types = { past: type("b", "p"), x: type("b", "t"), mask: type("b", "m") };
      expect(() => trace(types, (inputs) => model.forward(inputs))).toThrow(/runs only where "m" must be p \+ t/);
    }));

  test("a size that only the run can tell is refused with the node and the way out; with sizes in numbers it works", async () => {
    const spec: ModelSpec = {
      inputs: { x: ["float32", "n"] },
      initializers: { two: i64([1], 2), last: i64([1], -1) },
      nodes: [
        { op: "Shape", in: ["x"], out: ["s"] },
        { op: "Div", in: ["s", "two"], out: ["half"] },
        { op: "Concat", in: ["half", "last"], out: ["wanted"], attrs: { axis: 0 } },
        { op: "Reshape", in: ["x", "wanted"], out: ["y"], name: "/halves/Reshape" },
      ],
      outputs: ["y"],
    };
    const { code, message } = await refused(spec);
    expect(code).toBe("onnx-dynamic-shape");
    expect(message).toMatch(/Reshape "\/halves\/Reshape": its shape.*Give the sizes of the inputs as numbers/);
    await opened(spec, (model) => expect(model.trace({ x: sampled([6]) }).outputs.y!.shape).toEqual([3, 2]));
  });
});

describe("what cannot be decoded is named", () => {
  const inputs = { x: ["float32", 2, 3] } as const;
  test("an operator, with its domain, its node and its nearest neighbours", async () => {
    const { code, message } = await refused({
      inputs,
      nodes: [{ op: "SoftMax2", domain: "my.ops", name: "n1", in: ["x"], out: ["y"] }],
      outputs: ["y"],
    });
    expect(code).toBe("onnx-unsupported");
    expect(message).toMatch(
      /my\.ops\.SoftMax2 "n1": the operator SoftMax2 of the domain "my\.ops" is not supported \(nearest: .*Export the model/,
    );
  });
  test("an operator that no asked output depends on is not looked at", () =>
    opened(
      {
        inputs,
        nodes: [
          { op: "Strange", in: ["x"], out: ["z"] },
          { op: "Neg", in: ["x"], out: ["y"] },
        ],
        outputs: ["y", "z"],
      },
      (model) => expect(model.trace(undefined, ["y"]).outputs.y!.shape).toEqual([2, 3]),
    ));
  test("a loop", async () => {
    const { code, message } = await refused({ inputs, nodes: [{ op: "Loop", in: ["", "", "x"], out: ["y"] }], outputs: ["y"] });
    expect([code, message]).toEqual(["onnx-control-flow", expect.stringMatching(/Loop "y": loops have no gradient/)]);
  });
  test("a value that no node computes", async () => {
    const { message } = await refused({ inputs, nodes: [{ op: "Add", in: ["x", "lost"], out: ["y"] }], outputs: ["y"] });
    expect(message).toMatch(/"lost" is read, but no node before computes it/);
  });
  test("operands that do not fit", async () => {
    const { code, message } = await refused({
      inputs,
      initializers: { w: f32([5, 2], ...Array(10).fill(1)) },
      nodes: [{ op: "MatMul", in: ["x", "w"], out: ["y"], name: "product" }],
      outputs: ["y"],
    });
    expect(code).toBe("shape-mismatch");
    expect(message).toMatch(/MatMul "product".*inner sizes/);
  });
  test("an attribute of another kind", async () => {
    const { message } = await refused({
      inputs,
      nodes: [{ op: "Softmax", in: ["x"], out: ["y"], attrs: { axis: "one" } }],
      outputs: ["y"],
    });
    expect(message).toMatch(/Softmax "y": its attribute "axis" must be int, not string/);
  });
});

describe("control flow", () => {
  const branch = (op: string) => ({ graph: graphProto({ nodes: [{ op, in: ["x"], out: ["r"] }], outputs: ["r"] }) });
  const spec: ModelSpec = {
    inputs: { x: ["float32", 3], use_cache_branch: ["bool", 1] },
    nodes: [{ op: "If", in: ["use_cache_branch"], out: ["y"], attrs: { then_branch: branch("Exp"), else_branch: branch("Neg") } }],
    outputs: ["y"],
  };
  test("a condition that is fed is refused, with the way out", async () => {
    const { code, message } = await refused(spec);
    expect(code).toBe("onnx-control-flow");
    expect(message).toMatch(/"use_cache_branch" is not known.*fixed: \{ use_cache_branch: false \}/);
  });
  test("as a fixed input it is decided", () =>
    opened(
      spec,
      async (model) => {
        expect(model.inputs.map((i) => i.name)).toEqual(["x"]);
        const program = await device.compile(model.trace());
        expect(Array.from((await program.run({ x: f32([3], 1, 2, 3) })).y!.data as Float32Array)).toEqual([-1, -2, -3]);
      },
      { fixed: { use_cache_branch: false } },
    ));
  test("the layers of a branch that is taken are found, as those of a merged decoder", () => {
    const decoder = (scale: number) => ({
      graph: graphProto({
        initializers: { "model.fc.weight": f32([2, 2], scale, 0, 0, scale) },
        nodes: [
          { op: "MatMul", in: ["x", "model.fc.weight"], out: ["h"] },
          { op: "Constant", in: [], out: ["/model/out/Constant_output_0"], attrs: { value: { tensor: sampled([2, 40]) } } },
          { op: "MatMul", in: ["h", "/model/out/Constant_output_0"], out: ["r"], name: "/model/out/MatMul" },
        ],
        outputs: ["r"],
      }),
    });
    const merged: ModelSpec = {
      inputs: { x: ["float32", "n", 2], use_cache_branch: ["bool", 1] },
      nodes: [{ op: "If", in: ["use_cache_branch"], out: ["y"], attrs: { then_branch: decoder(1), else_branch: decoder(2) } }],
      outputs: ["y"],
    };
    return opened(
      merged,
      async (model) => {
        expect([...model.namedModules()].filter(([, m]) => m instanceof LinearLayer).map(([path]) => path)).toEqual([
          "model.fc",
          "model.out",
        ]);
        expect(
          Array.from(device.read((model.module("model.fc") as LinearLayer & { weight: Parameter }).weight).data as Float32Array),
        ).toEqual([2, 0, 0, 2]);
      },
      { fixed: { use_cache_branch: false } },
    );
  });
  test("a fixed input that the file does not have", () =>
    withModelFile(modelBytes(spec), (file) =>
      expect(() => openOnnxModel(file, { fixed: { cache: 1 } })).toThrow(/no input "cache".*x, use_cache_branch/),
    ));
});

test("a function that the file defines stands for its nodes, attributes included", async () => {
  const message = onnx.ModelProto.decode(
    modelBytes({
      inputs: { x: ["float32", 2] },
      nodes: [{ op: "Leaky", domain: "local", in: ["x"], out: ["y"], attrs: { slope: { float: 0.5 } } }],
      outputs: ["y"],
      opset: 17,
    }),
  );
  message.opsetImport.push(onnx.OperatorSetIdProto.create({ domain: "local", version: 1 }));
  message.functions = [
    onnx.FunctionProto.create({
      name: "Leaky",
      domain: "local",
      input: ["a"],
      output: ["b"],
      attribute: ["slope"],
      opsetImport: [{ domain: "", version: 17 }],
      node: [
        {
          opType: "LeakyRelu",
          input: ["a"],
          output: ["c"],
          attribute: [{ name: "alpha", type: onnx.AttributeProto.AttributeType.FLOAT, refAttrName: "slope" }],
        },
        { opType: "Neg", input: ["c"], output: ["b"] },
      ],
    }),
  ];
  message.irVersion = 8;
  await withModelFile(onnx.ModelProto.encode(message).finish(), async (file) => {
    const x = f32([2], -4, 3);
    const program = await device.compile(openOnnxModel(file).trace());
    expect(Array.from((await program.run({ x })).y!.data as Float32Array)).toEqual([2, -3]);
    expect(Array.from((await runPlain(file, { x })).y!.data as Float32Array)).toEqual([2, -3]);
  });
});

describe("weights", () => {
  test("a tied embedding is one parameter, and its head a layer that can be adapted", () =>
    opened(
      {
        inputs: { ids: ["int64", "batch", "time"] },
        initializers: { "model.embed.weight": sampled([5, 4]) },
        nodes: [
          { op: "Gather", in: ["model.embed.weight", "ids"], out: ["h"] },
          { op: "Transpose", in: ["model.embed.weight"], out: ["t"], attrs: { perm: [1, 0] } },
          { op: "MatMul", in: ["h", "t"], out: ["logits"], name: "/lm_head/MatMul" },
        ],
        outputs: ["logits"],
      },
      (model) => {
        expect([...model.namedParameters()].map(([path]) => path)).toEqual(["model.embed.weight"]);
        const head = model.module("lm_head") as LinearLayer & { weight: Parameter };
        expect(head).toBeInstanceOf(LinearLayer);
        expect([head.inFeatures, head.outFeatures, head.weight.name]).toEqual([4, 5, "model.embed.weight"]);
      },
    ));

  test("16-bit floats are computed in 32 bits, and the file keeps its types", async () => {
    const half = {
      dims: [2, 2],
      dataType: onnx.TensorProto.DataType.FLOAT16,
      rawData: new Uint8Array(Uint16Array.of(0x3c00, 0x4000, 0, 0xbc00).buffer),
    };
    await opened(
      {
        inputs: { x: ["float16", "n", 2] },
        initializers: { "fc.weight": half },
        nodes: [{ op: "MatMul", in: ["x", "fc.weight"], out: ["y"] }],
        outputs: ["y"],
        types: { y: ["float16", "n", 2] },
      },
      async (model, file) => {
        expect(model.inputs[0]!.dtype).toBe("float16");
        const x = { dtype: "float16" as const, shape: [1, 2], data: Uint16Array.of(0x3c00, 0x4000) };
        const kept = `${file}.kept.onnx`;
        saveOnnx(kept, model);
        // [1, 2] · [[1, 2], [0, −1]] = [1, 0]
        for (const results of [await (await device.compile(model.trace())).run({ x }), await runPlain(kept, { x })])
          expect(results.y).toMatchObject({ dtype: "float16", data: Uint16Array.of(0x3c00, 0) });
      },
    );
  });
});
