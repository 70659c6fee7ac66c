import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { readPeftAdapter } from "../../checkpoints/index.ts";
import { trace } from "../../graph/index.ts";
import type { CausalLM } from "../../models/causal-lm.ts";
import { loadCausalLM, saveModel, setBaseDtype } from "../../models/index.ts";
import { Linear, QuantizedLinear } from "../../nn/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { causalLanguageModel } from "../../train/objectives/index.ts";
import { adamW } from "../../train/optimizers/index.ts";
import { train } from "../../train/trainer.ts";
import { loadAdapter, lora, mergeAdapters } from "../index.ts";

const source = "tests/fixtures/llama-tiny";
const adapter = "tests/fixtures/llama-tiny-lora";
const device = cpu({ threads: 1 });
const rows = (JSON.parse(readFileSync(join(adapter, "expected.json"), "utf8")) as { input_ids: number[][] }).input_ids;
const ids = hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));

async function logits(model: CausalLM): Promise<Float32Array> {
  const program = await device.compile(trace({ ids }, (i) => ({ y: model.logits(model.forward({ ids: i.ids }).hidden) })));
  return (await program.run({ ids })).y!.data as Float32Array;
}

const distance = (a: Float32Array, b: Float32Array) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));

const quantized = (dtype: "int8" | "nf4") => {
  const model = loadCausalLM(source);
  setBaseDtype(model, dtype);
  return model;
};

test("an adapter goes onto a quantised base and is merged with what that base stands for, as float32", async () => {
  const directory = mkdtempSync(join(tmpdir(), "espalier-quantized-base-"));
  try {
    const model = quantized("nf4");
    const base = await logits(model);
    loadAdapter(model, adapter);
    const adapted = await logits(model);
    expect(distance(adapted, base)).toBeGreaterThan(1e-2);
    const { modules, unmerge } = mergeAdapters(model, device);
    expect(modules).toHaveLength(4);
    for (const path of modules) expect(model.module(path)).toBeInstanceOf(Linear);
    expect(model.module("model.layers.0.mlp.up_proj")).toBeInstanceOf(QuantizedLinear);
    expect(distance(await logits(model), adapted)).toBeLessThan(1e-4);
    saveModel(directory, model, { source });
    expect(distance(await logits(loadCausalLM(directory)), adapted)).toBeLessThan(1e-4);
    unmerge();
    expect(await logits(model)).toEqual(adapted);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

/** The loss after 30 steps on one batch. */
async function trained(model: CausalLM, directory?: string): Promise<{ first: number; last: number }> {
  const method = lora({ rank: 4, targets: "all-linear" });
  const losses: number[] = [];
  const batch = { feeds: { ids, targets: ids }, tokens: ids.data.length, examples: rows.length, description: "the batch" };
  await train({
    model,
    objective: causalLanguageModel(model),
    data: { batchesPerEpoch: 1, batch: () => batch },
    device,
    methods: [method],
    optimizer: adamW({ learningRate: 1e-2 }),
    steps: 30,
    onStep: ({ loss }) => losses.push(loss),
  });
  if (directory) method.save!(directory, { model, parameters: model.trainableParameters() });
  return { first: losses[0]!, last: losses.at(-1)! };
}

test("training on an int8 base learns as on a float32 base, and saves an adapter like any other", async () => {
  const directory = mkdtempSync(join(tmpdir(), "espalier-quantized-base-"));
  try {
    const float = await trained(loadCausalLM(source));
    const int8 = await trained(quantized("int8"), directory);
    expect(float.last).toBeLessThan(0.7 * float.first);
    // As a share of what was learnt: the batch is learnt by heart, and the loss comes near zero.
    expect(Math.abs(int8.last - float.last) / (float.first - float.last)).toBeLessThan(0.05);
    const model = loadCausalLM(source);
    loadAdapter(model, directory);
    expect(readPeftAdapter(directory).tensors.size).toBe(2 * 7 * 2);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
