import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runPlain } from "../../../tests/onnx-models.ts";
import { grad } from "../../autodiff/index.ts";
import { openSafetensors, readStorage } from "../../checkpoints/index.ts";
import { languageBatches } from "../../data/index.ts";
import { trace } from "../../graph/index.ts";
import { lora, mergeAdapters } from "../../methods/index.ts";
import { Linear, LinearLayer, type Parameter } from "../../nn/index.ts";
import { mul, sum } from "../../ops/index.ts";
import { type HostTensor, hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { adamW, causalLanguageModel, sequenceClassification, train } from "../../train/index.ts";
import { type OnnxModel, openOnnxModel } from "./onnx-model.ts";
import { saveOnnx } from "./save-onnx.ts";
import { onnxLanguageModel, onnxSequenceClassifier } from "./views.ts";

const device = cpu({ threads: 1 });
const fixtures = "tests/fixtures";
const names = readdirSync(fixtures).filter((name) => name.startsWith("onnx-"));
const fileOf = (name: string) => join(fixtures, name, "model.onnx");

/** Stored tensors of a fixture whose names begin with `prefix`, without it. */
function stored(name: string, prefix: string): Record<string, HostTensor> {
  const { tensors } = openSafetensors(join(fixtures, name, "expected.safetensors"));
  const chosen = [...tensors].filter(([key]) => key.startsWith(prefix));
  return Object.fromEntries(chosen.map(([key, s]) => [key.slice(prefix.length), hostTensor(s.dtype, s.shape, readStorage(s))]));
}

function largestDifference(actual: Record<string, HostTensor>, expected: Record<string, HostTensor>): number {
  expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort());
  let worst = 0;
  for (const [name, e] of Object.entries(expected)) {
    const a = actual[name]!;
    expect(a.shape, name).toEqual(e.shape);
    expect(a.data.length).toBeGreaterThan(0);
    for (const [i, v] of (e.data as Float32Array).entries())
      worst = Math.max(worst, Math.abs((a.data[i] as number) - v) || (a.data[i] === v ? 0 : Number.POSITIVE_INFINITY));
  }
  return worst;
}

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-onnx-model-"));
});
afterAll(async () => {
  await device.dispose();
  rmSync(directory, { recursive: true, force: true });
});

test("there are fixtures of both exporters, the optimizer and the quantisers", () => expect(names.length).toBeGreaterThanOrEqual(20));

describe.each(names)("%s computes what ONNX Runtime does", (name) => {
  const model = openOnnxModel(fileOf(name));

  test.each([0, 1])("with the sizes of input %i", async (i) => {
    const feeds = stored(name, `${i}.in.`);
    const program = await device.compile(model.trace(feeds));
    expect(largestDifference(await program.run(feeds), stored(name, `${i}.out.`))).toBeLessThan(1e-4);
    await program.dispose();
  });

  test("in one program for all sizes, and as a file of standard operators", async () => {
    const file = join(directory, `${name}.onnx`);
    const program = await device.compile(model.trace());
    saveOnnx(file, model);
    for (const i of [0, 1]) {
      const [feeds, expected] = [stored(name, `${i}.in.`), stored(name, `${i}.out.`)];
      expect(largestDifference(await program.run(feeds), expected)).toBeLessThan(1e-4);
      expect(largestDifference(await runPlain(file, feeds), expected)).toBeLessThan(1e-4);
    }
    await program.dispose();
    // Ours again, decoded from what we wrote.
    const again = openOnnxModel(file);
    expect(again.inputs.map(({ name, dtype }) => [name, dtype])).toEqual(model.inputs.map(({ name, dtype }) => [name, dtype]));
    expect(again.outputNames).toEqual(model.outputNames);
  });
});

describe("gradients equal PyTorch's", () => {
  test.each(["onnx-llama-ts14", "onnx-llama-dynamo21", "onnx-bert-ts14"])("%s", async (name) => {
    const model = openOnnxModel(fileOf(name));
    const expected = Object.entries(stored(name, "gradient."));
    expect(expected).toHaveLength(3);
    const parameters = new Map(model.namedParameters());
    const feeds = { ...stored(name, "0.in."), ...stored(name, "seed") };
    const seed = Object.values(stored(name, "seed"))[0]!;
    const program = await device.compile(
      trace({ ...stored(name, "0.in."), seed }, ({ seed: s, ...inputs }) => {
        const loss = sum(mul(model.forward(inputs).logits!, s!));
        const wrt = expected.map(([path]) => parameters.get(path)!.value);
        return Object.fromEntries(grad(loss, wrt).map((g, i) => [expected[i]![0], g]));
      }),
    );
    const results = await program.run({ ...feeds, seed });
    for (const [path, e] of expected) {
      const layer = path.endsWith(".weight") ? model.module(path.slice(0, -".weight".length)) : undefined;
      const isTransposed = layer instanceof Linear && layer.layout === "in-out";
      const [rows, columns] = e.shape as [number, number];
      const values = (e.data as Float32Array).map((_, i) =>
        isTransposed ? (e.data[(i % rows) * columns + Math.floor(i / rows)] as number) : (e.data[i] as number),
      );
      const scale = Math.max(...values.map(Math.abs));
      expect(scale).toBeGreaterThan(0.01);
      for (const [i, v] of values.entries()) expect(Math.abs((results[path]!.data[i] as number) - v) / scale).toBeLessThan(1e-4);
    }
    await program.dispose();
  });
});

describe("layers", () => {
  const layers = (model: OnnxModel) => [...model.namedModules()].flatMap(([path, m]) => (m instanceof LinearLayer ? [path] : []));
  const ofLayer = (i: number) =>
    ["q", "k", "v", "o"]
      .map((n) => `model.layers.${i}.self_attn.${n}_proj`)
      .concat(["gate", "up", "down"].map((n) => `model.layers.${i}.mlp.${n}_proj`));

  test.each([
    "onnx-llama-ts14",
    "onnx-llama-dynamo21",
    "onnx-llama-past-dynamo18",
    "onnx-llama-genai",
    "onnx-llama-genai-int4",
    "onnx-llama-int4",
  ])("%s has them at the checkpoint's paths", (name) =>
    expect(layers(openOnnxModel(fileOf(name))).sort()).toEqual([...ofLayer(0), ...ofLayer(1), "lm_head"].sort()),
  );

  test("a weight is found by the name that the file gives it", () => {
    expect(openOnnxModel(fileOf("onnx-llama-ts14")).pathOf("model.embed_tokens.weight")).toBe("model.embed_tokens.weight");
    const anonymous = [...openOnnxModel(fileOf("onnx-bert-ts14")).namedParameters()].map(([path]) => path);
    expect(anonymous).toContain("bert.encoder.layer.1.attention.self.query.bias");
    expect(() => openOnnxModel(fileOf("onnx-llama-ts14")).pathOf("model.embed_token.weight")).toThrow(
      /Nearest: model\.embed_tokens\.weight/,
    );
  });

  test("everything is frozen and mapped or small", () => {
    const model = openOnnxModel(fileOf("onnx-gpt2-external"));
    expect(model.parameters().every((p) => p.frozen)).toBe(true);
    const large = model.parameters().filter((p) => p.shape.length === 2);
    expect(large.length).toBeGreaterThan(8);
    expect(large.every((p) => p.storage.kind === "file" && p.storage.file.endsWith("model.onnx_data"))).toBe(true);
  });
});

/** Rows of a repeating pattern, which a model of any size can learn. */
const tokens = Int32Array.from({ length: 400 }, (_, i) => [3, 17, 5, 40, 8][i % 5]!);

async function adapted(name: string, targets: string[] | "all-linear"): Promise<{ model: OnnxModel; first: number; last: number }> {
  const model = openOnnxModel(fileOf(name));
  const losses: number[] = [];
  await train({
    model,
    objective: causalLanguageModel(onnxLanguageModel(model)),
    data: languageBatches(tokens, { batchSize: 4, sequenceLength: 8 }),
    device,
    optimizer: adamW({ learningRate: 0.02 }),
    steps: 30,
    methods: [lora({ rank: 4, alpha: 8, targets })],
    onStep: ({ loss }) => losses.push(loss),
  });
  return { model, first: losses[0]!, last: losses.at(-1)! };
}

describe("LoRA on an imported language model", () => {
  test.each([
    ["onnx-llama-ts14", ["q_proj", "v_proj", "down_proj"]],
    ["onnx-llama-past-dynamo18", ["q_proj", "v_proj", "down_proj"]],
    ["onnx-gpt2-fused", ["c_attn", "c_fc"]],
    ["onnx-llama-genai", ["q_proj", "v_proj", "down_proj"]],
    ["onnx-llama-genai-int4", ["q_proj", "v_proj", "down_proj"]],
  ])("%s learns, and its exported file computes the same in plain ONNX Runtime", async (name, targets) => {
    const { model, first, last } = await adapted(name, targets);
    expect(last).toBeLessThan(first - 0.4);
    const feeds = stored(name, "1.in.");
    const program = await device.compile(model.trace(feeds));
    const trained = await program.run(feeds);
    expect(largestDifference(trained, stored(name, "1.out."))).toBeGreaterThan(0.1);

    const kept = join(directory, `${name}-adapted.onnx`);
    const written = saveOnnx(kept, model, { external: true });
    expect(written.data).toEqual({ file: `${kept}.data`, byteLength: statSync(`${kept}.data`).size });
    expect(largestDifference(await runPlain(kept, feeds), trained)).toBeLessThan(1e-5);

    mergeAdapters(model, device);
    const merged = join(directory, `${name}-merged.onnx`);
    saveOnnx(merged, model);
    expect(largestDifference(await runPlain(merged, feeds), trained)).toBeLessThan(1e-4);
    await program.dispose();
  });

  test("adapters are saved and loaded in PEFT's format, and found again after an export", async () => {
    const { model } = await adapted("onnx-llama-dynamo21", "all-linear");
    const method = lora({ rank: 4, alpha: 8, targets: "all-linear" });
    const trained: Parameter[] = model.trainableParameters();
    expect(trained).toHaveLength(2 * 7 * 2);
    const saved = mkdtempSync(join(directory, "adapter-"));
    method.save!(saved, { model, parameters: trained });
    const fresh = openOnnxModel(fileOf("onnx-llama-dynamo21"));
    method.load!(fresh, saved);
    const feeds = stored("onnx-llama-dynamo21", "0.in.");
    const [a, b] = await Promise.all([model, fresh].map(async (m) => (await device.compile(m.trace(feeds))).run(feeds)));
    expect(largestDifference(a!, b!)).toBe(0);
  });
});

describe("LoRA on an imported classifier", () => {
  test.each([
    ["onnx-bert-fused", ["Attention_0", "Attention_1"]],
    ["onnx-bert-int8", ["query", "value"]],
    ["onnx-bert-dynamo18", ["query", "value"]],
  ])("%s learns beside fused, integer and plain weights", async (name, targets) => {
    const model = openOnnxModel(fileOf(name));
    const rows = 4;
    const feeds = {
      ids: hostTensor(
        "int64",
        [rows, 6],
        BigInt64Array.from({ length: rows * 6 }, (_, i) => BigInt((i * 7) % 48)),
      ),
      lengths: hostTensor("int64", [rows], BigInt64Array.of(6n, 5n, 4n, 6n)),
      labels: hostTensor("int64", [rows], BigInt64Array.of(0n, 1n, 2n, 1n)),
    };
    const losses: number[] = [];
    await train({
      model,
      objective: sequenceClassification(onnxSequenceClassifier(model)),
      data: { batchesPerEpoch: 1, batch: () => ({ feeds, tokens: 21, examples: rows, description: "four rows" }) },
      device,
      optimizer: adamW({ learningRate: 0.02 }),
      steps: 25,
      methods: [lora({ rank: 4, alpha: 8, targets })],
      onStep: ({ loss }) => losses.push(loss),
    });
    expect(losses.at(-1)).toBeLessThan(losses[0]! / 2);
    const input = stored(name, "1.in.");
    const [program, file] = [await device.compile(model.trace(input)), join(directory, `${name}-classifier.onnx`)];
    saveOnnx(file, model);
    expect(largestDifference(await runPlain(file, input), await program.run(input))).toBeLessThan(1e-5);
    await program.dispose();
  });
});

test("a classifier as an objective's model: its rows are masked by their lengths", async () => {
  const name = "onnx-bert-fused";
  const model = openOnnxModel(fileOf(name));
  const { input_ids } = stored(name, "0.in.") as { input_ids: HostTensor };
  const [batch, time] = input_ids.shape as [number, number];
  const lengths = hostTensor("int64", [batch], BigInt64Array.of(4n, 6n));
  const program = await device.compile(
    trace({ ids: input_ids, lengths }, (i) => ({ logits: onnxSequenceClassifier(model).forward(i.ids, i.lengths) })),
  );
  const { logits } = await program.run({ ids: input_ids, lengths });
  const mask = hostTensor(
    "int64",
    [batch, time],
    BigInt64Array.from({ length: batch * time }, (_, i) => (i % time < [4, 6][Math.floor(i / time)]! ? 1n : 0n)),
  );
  const feeds = { input_ids, attention_mask: mask, token_type_ids: hostTensor("int64", [batch, time], new BigInt64Array(batch * time)) };
  expect(largestDifference({ logits: logits! }, await runPlain(fileOf(name), feeds))).toBeLessThan(1e-4);
});

describe("what is wrong is named", () => {
  const model = openOnnxModel(fileOf("onnx-llama-ts14"));
  const feeds = stored("onnx-llama-ts14", "0.in.");
  const forward = (types: Record<string, HostTensor>, outputs?: string[]) => trace(types, (inputs) => model.forward(inputs, outputs));

  test("an input that the file does not have, and one that is missing", () => {
    expect(() => forward({ ...feeds, token_type_ids: feeds.input_ids! })).toThrow(
      /no input "token_type_ids".*inputs are input_ids, attention_mask, position_ids/,
    );
    expect(() => forward({ input_ids: feeds.input_ids! })).toThrow(/the input "(attention_mask|position_ids)" is missing/);
    expect(() => forward(feeds, ["hidden"])).toThrow(/no output "hidden".*outputs logits/);
  });
  test("an input of another type or rank", () => {
    const floats = hostTensor("float32", [2, 6], new Float32Array(12));
    expect(() => forward({ ...feeds, input_ids: floats })).toThrow(/"input_ids" must be int64 of rank 2/);
  });
  test("an export onto the file that the weights are mapped from", async () => {
    const copy = join(directory, "own.onnx");
    saveOnnx(copy, model, { external: true });
    expect(() => saveOnnx(copy, openOnnxModel(copy), { external: true })).toThrow(/own\.onnx.*mapped from this file/);
  });
});
