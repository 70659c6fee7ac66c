/** Prompt, P- and prefix tuning as methods: training, saving, and the encoders against PEFT's. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openSafetensors, readPeftAdapter, readStorage } from "../../checkpoints/index.ts";
import { trace } from "../../graph/index.ts";
import { type CausalLM, loadCausalLM, loadSequenceClassifier } from "../../models/index.ts";
import { floats } from "../../nn/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { applyWeights, type Method } from "../../train/method.ts";
import { causalLanguageModel, sequenceClassification } from "../../train/objectives/index.ts";
import { adamW } from "../../train/optimizers/index.ts";
import { train } from "../../train/trainer.ts";
import { loadAdapter, lora, mergeAdapters, prefixTuning, promptTuning, pTuning } from "../index.ts";
import { LstmPromptEncoder, MlpPromptEncoder } from "./prompt-encoders.ts";
import type { Prompt } from "./virtual-tokens.ts";

const source = "tests/fixtures/llama-tiny";
const device = cpu({ threads: 1 });
const int64 = (shape: number[], values: number[]) => hostTensor("int64", shape, BigInt64Array.from(values, BigInt));
const distance = (a: Float32Array, b: Float32Array) =>
  a.length === b.length ? Math.max(...a.map((v, i) => Math.abs(v - b[i]!))) : Infinity;

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-prompts-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

async function logits(model: CausalLM): Promise<Float32Array> {
  const ids = int64([1, 5], [9, 4, 70, 33, 12]);
  const program = await device.compile(trace({ ids }, (i) => ({ y: model.logits(model.forward({ ids: i.ids }).hidden) })));
  return ((await program.run({ ids })).y!.data as Float32Array).slice();
}

/** Losses of the first and the last of 40 steps on one batch. */
async function trained(model: CausalLM, methods: Method[]): Promise<{ first: number; last: number }> {
  const ids = [5, 9, 12, 40, 7, 81, 22, 64];
  const batch = {
    feeds: { ids: int64([1, 8], ids), targets: int64([1, 8], [...ids.slice(1), -100]) },
    examples: 1,
    tokens: 8,
    description: "a batch",
  };
  const losses: number[] = [];
  await train({
    model,
    objective: causalLanguageModel(model),
    data: { batchesPerEpoch: 1, batch: () => batch },
    device,
    methods,
    optimizer: adamW({ learningRate: 0.05 }),
    steps: 40,
    onStep: ({ loss }) => losses.push(loss),
  });
  return { first: losses[0]!, last: losses.at(-1)! };
}

describe.each([
  ["prompt-tuning", promptTuning({ tokens: 4 }), 4 * 48],
  ["prompt-tuning from the tokens of a text", promptTuning({ tokens: 4, init: [17, 90, 5] }), 4 * 48],
  ["p-tuning with an MLP", pTuning({ tokens: 3, hidden: 16 }), 3 * 48 + (48 + 1) * 16 + (16 + 1) * 16 + (16 + 1) * 48],
  [
    "p-tuning with an LSTM",
    pTuning({ tokens: 3, hidden: 8, encoder: "lstm", layers: 1 }),
    3 * 48 + 2 * 4 * 8 * (48 + 8 + 2) + (16 + 1) * 16 + (16 + 1) * 48,
  ],
  ["prefix-tuning", prefixTuning({ tokens: 3 }), 3 * 2 * 2 * 24],
  [
    "prefix-tuning through a projection",
    prefixTuning({ tokens: 3, projection: true, hidden: 16 }),
    3 * 48 + (48 + 1) * 16 + (16 + 1) * 2 * 2 * 24,
  ],
] as [string, Method, number][])("%s", (_, method, parameters) => {
  test("learns, with nothing else trained; what is saved computes the same when loaded", async () => {
    const model = loadCausalLM(source);
    const before = await logits(model);
    applyWeights(model, [method]);
    expect(model.trainableParameters().reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0)).toBe(parameters);
    const { first, last } = await trained(model, [method]);
    expect(last).toBeLessThan(0.6 * first);
    await method.save!(directory, { model, base: source, parameters: model.trainableParameters(), device });
    const loaded = loadCausalLM(source);
    const { graft } = loadAdapter(loaded, directory);
    expect(distance(await logits(loaded), await logits(model))).toBeLessThan(1e-4);
    graft.undo();
    expect(await logits(loaded)).toEqual(before);
  });
});

test("a prompt from the tokens of a text starts as their embeddings, repeated", async () => {
  const model = loadCausalLM(source);
  const written = loadCausalLM(source);
  applyWeights(model, [promptTuning({ tokens: 4, init: [17, 90, 5] })]);
  const ids = int64([1, 2], [8, 3]);
  const whole = int64([1, 6], [17, 90, 5, 17, 8, 3]);
  const run = async (m: CausalLM, feed: typeof ids) => {
    const program = await device.compile(trace({ ids: feed }, (i) => ({ y: m.logits(m.forward({ ids: i.ids }).hidden) })));
    return (await program.run({ ids: feed })).y!.data as Float32Array;
  };
  expect(distance(await run(model, ids), (await run(written, whole)).subarray(4 * 128))).toBeLessThan(1e-5);
});

test("a classifier learns with a prompt, and its head is saved with it", async () => {
  const model = loadSequenceClassifier(source, ["a", "b"]);
  const method = promptTuning({ tokens: 4 });
  const batch = {
    feeds: { ids: int64([2, 3], [5, 9, 12, 40, 7, 0]), lengths: int64([2], [3, 2]), labels: int64([2], [0, 1]) },
    examples: 2,
    tokens: 5,
    description: "a batch",
  };
  const losses: number[] = [];
  await train({
    model,
    objective: sequenceClassification(model),
    data: { batchesPerEpoch: 1, batch: () => batch },
    device,
    methods: [method],
    optimizer: adamW({ learningRate: 0.02 }),
    steps: 20,
    onStep: ({ loss }) => losses.push(loss),
  });
  expect(losses.at(-1)!).toBeLessThan(0.3 * losses[0]!);
  await method.save!(directory, { model, parameters: model.trainableParameters(), device });
  const { config, tensors } = readPeftAdapter(directory);
  expect(config).toMatchObject({ task_type: "SEQ_CLS", modules_to_save: ["score"], num_virtual_tokens: 4 });
  expect([...tensors.keys()].sort()).toEqual(["prompt_embeddings", "score.weight"]);
});

test.each(["mlp", "lstm"] as const)("the %s encoder makes of PEFT's parameters what PEFT makes of them", async (kind) => {
  const fixture = join("tests/fixtures", `peft-p-${kind}`);
  const { tensors } = openSafetensors(join(fixture, "encoder.safetensors"));
  const encoder: Prompt =
    kind === "mlp"
      ? new MlpPromptEncoder({ tokens: 4, width: 48, hidden: 20, seed: 0 })
      : new LstmPromptEncoder({ tokens: 4, width: 48, hidden: 8, layers: 2, seed: 0 });
  const theirName = (name: string) =>
    name
      .replace(/^embedding$/, "embedding.weight")
      .replace(/^mlp_head\.(\d)/, (_, i) => `mlp_head.${2 * Number(i)}`)
      .replace(
        /^lstm_head\.(ahead|back)\.(\d)\.(.*)$/,
        (_, side, layer, part) => `lstm_head.${part}_l${layer}${side === "back" ? "_reverse" : ""}`,
      );
  const named = [...encoder.assignNames().namedParameters()];
  expect(named.map(([name]) => theirName(name)).sort()).toEqual([...tensors.keys()].sort());
  for (const [name, parameter] of named) parameter.storage = tensors.get(theirName(name))!;
  const program = await device.compile(trace({}, () => ({ y: encoder.forward() })));
  const expected = readStorage(readPeftAdapter(fixture).tensors.get("prompt_embeddings")!) as Float32Array;
  expect(distance((await program.run({})).y!.data as Float32Array, expected)).toBeLessThan(1e-5);
});

describe("refuses", () => {
  test("to merge virtual tokens, to put two prompts on, and models without a decoder", () => {
    const model = loadCausalLM(source);
    loadAdapter(model, "tests/fixtures/peft-prefix");
    expect(() => mergeAdapters(model, device)).toThrow(/virtual tokens .* No weight can take them in/);
    expect(() => loadAdapter(model, "tests/fixtures/peft-prompt")).toThrow(/has virtual tokens already/);
    expect(() => loadAdapter(loadCausalLM("tests/fixtures/decoder-gpt2"), "tests/fixtures/peft-prefix")).toThrow(
      /made for 2 key\/value heads/,
    );
  });

  test("an initial token outside the vocabulary", () => {
    expect(() => applyWeights(loadCausalLM(source), [promptTuning({ init: [128] })])).toThrow(/token 128; the model's vocabulary has 128/);
  });
});

test("LoRA goes onto a model with virtual tokens, and both learn", async () => {
  const model = loadCausalLM(source);
  const methods = [prefixTuning({ tokens: 2 }), lora({ rank: 2 })];
  applyWeights(model, methods);
  const names = model.trainableParameters().map((p) => p.name);
  expect(names).toContain("model.prompt.values");
  expect(names).toContain("model.layers.0.self_attn.q_proj.lora_A.weight");
  const [prompt] = model.trainableParameters().filter((p) => p.name === "model.prompt.values");
  const start = device.read(prompt!).data;
  const { first, last } = await trained(model, methods);
  expect(last).toBeLessThan(0.5 * first);
  expect(device.read(prompt!).data).not.toEqual(start);
  prompt!.storage = floats(prompt!.shape, start as Float32Array);
});
