import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { grad } from "../autodiff/index.ts";
import { readStorage } from "../checkpoints/index.ts";
import { trace } from "../graph/index.ts";
import { lora, mergeAdapters } from "../methods/index.ts";
import { Linear, type Module, QuantizedLinear } from "../nn/index.ts";
import { mul, sum } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { applyWeights } from "../train/method.ts";
import type { CausalLM } from "./causal-lm.ts";
import { loadCausalLM, loadSequenceClassifier, saveModel, setBaseDtype } from "./index.ts";

const source = "tests/fixtures/llama-tiny";
const device = cpu({ threads: 1 });
const ids = hostTensor("int64", [2, 5], BigInt64Array.from([3, 7, 11, 2, 5, 9, 4, 1, 8, 6], BigInt));

async function logits(model: CausalLM): Promise<Float32Array> {
  const program = await device.compile(trace({ ids }, (i) => ({ y: model.logits(model.forward({ ids: i.ids }).hidden) })));
  return (await program.run({ ids })).y!.data as Float32Array;
}

/** The gradient of the squared logits for the weight of the first norm, which every frozen layer lies behind. */
async function normGradient(model: CausalLM): Promise<Float32Array> {
  model.freeze();
  const weight = [...model.namedParameters()].find(([name]) => name.endsWith("layers.0.input_layernorm.weight"))![1];
  weight.frozen = false;
  const traced = trace({ ids }, (i) => {
    const y = model.logits(model.forward({ ids: i.ids }).hidden);
    return { dw: grad(sum(mul(y, y)), [weight.value])[0]! };
  });
  return (await (await device.compile(traced)).run({ ids })).dw!.data as Float32Array;
}

const error = (a: Float32Array, b: Float32Array) => Math.hypot(...a.map((v, i) => v - b[i]!)) / Math.hypot(...b);
const quantized = (model: Module) => [...model.namedModules()].filter(([, m]) => m instanceof QuantizedLinear);

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-base-dtype-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe("base dtypes", () => {
  test("f32 changes nothing", async () => {
    const model = loadCausalLM(source);
    const expected = await logits(model);
    setBaseDtype(model, "f32");
    expect(await logits(model)).toEqual(expected);
  });

  for (const [dtype, limit] of [
    ["bf16", 0.04],
    ["f16", 0.004],
  ] as const)
    test(`${dtype}: weights are rounded, logits and gradients are near those of float32`, async () => {
      const model = loadCausalLM(source);
      const [expected, expectedGradient] = [await logits(model.freeze()), await normGradient(loadCausalLM(source))];
      setBaseDtype(model, dtype);
      const errors = [error(await logits(model), expected), error(await normGradient(model), expectedGradient)];
      expect(Math.max(...errors)).toBeLessThan(limit);
      expect(Math.min(...errors)).toBeGreaterThan(limit / 50);
    });

  // int8 rounds activations and gradients as well; the 4-bit types round weights alone.
  for (const [dtype, limit] of [
    ["int8", 0.08],
    ["int4", 1e-5],
    ["nf4", 1e-5],
  ] as const)
    test(`${dtype}: logits and gradients are those of the weights that it stands for`, async () => {
      const model = loadCausalLM(source);
      setBaseDtype(model, dtype);
      saveModel(directory, model, { source });
      const dense = loadCausalLM(directory);
      expect(error(await logits(model), await logits(dense))).toBeLessThan(limit);
      expect(error(await normGradient(model), await normGradient(dense))).toBeLessThan(limit);
    });

  test("Linears are quantised; embedding, norms and heads stay", () => {
    const model = loadCausalLM(source);
    expect(setBaseDtype(model, "int8")).toHaveLength(2 * 7);
    expect(quantized(model)).toHaveLength(2 * 7);
    expect(model.head).toBeInstanceOf(Linear);
    expect(Array.from(model.namedParameters(), ([name]) => name).filter((name) => name.includes("layers.0"))).toEqual([
      "model.layers.0.input_layernorm.weight",
      "model.layers.0.post_attention_layernorm.weight",
    ]);
    const classifier = loadSequenceClassifier(source, ["a", "b"]);
    setBaseDtype(classifier, "nf4");
    expect(classifier.head).toBeInstanceOf(Linear);
  });

  test("a quantised model is saved as the floats that it stands for", () => {
    const model = loadCausalLM(source);
    const before = (model.module("model.layers.1.mlp.down_proj") as Linear).weight;
    setBaseDtype(model, "int8");
    saveModel(directory, model, { source });
    const name = "model.layers.1.mlp.down_proj";
    const weight = readStorage((loadCausalLM(directory).module(name) as Linear).weight.storage) as Float32Array;
    expect(weight).toEqual((model.module(name) as QuantizedLinear).denseWeight((v) => readStorage(v.storage)));
    expect(error(weight, readStorage(before.storage) as Float32Array)).toBeLessThan(0.01);
  });

  test("GPT-2's weights, which lie as [in, out], are saved as they lay, also where an adapter is merged into them", async () => {
    const gpt2 = "tests/fixtures/decoder-gpt2";
    const model = loadCausalLM(gpt2);
    setBaseDtype(model, "int8");
    const expected = await logits(model);
    saveModel(directory, model, { source: gpt2 });
    expect(error(await logits(loadCausalLM(directory)), expected)).toBeLessThan(0.02);
    applyWeights(model, [lora({ rank: 2, targets: "all-linear", modulesToSave: [] })]);
    mergeAdapters(model, device);
    const merged = join(directory, "merged");
    saveModel(merged, model, { source: gpt2 });
    expect(error(await logits(loadCausalLM(merged)), expected)).toBeLessThan(0.02);
  });
});
