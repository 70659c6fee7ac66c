/** What the fixtures of PEFT do not show: quantised bases, dropout, untied heads, and what is refused. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Random, type Tensor, trace } from "../../graph/index.ts";
import { type CausalLM, loadCausalLM, resizeTokenEmbeddings, saveModel, setBaseDtype } from "../../models/index.ts";
import { floats, inTraining, Linear, Module, normal, ones, randomInputs, zeros } from "../../nn/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { applyWeights } from "../../train/method.ts";
import { ia3, loadAdapter, lora, mergeAdapters } from "../index.ts";
import { LoraLinear } from "./lora-linear.ts";

const at = (name: string) => join("tests/fixtures", name);
const device = cpu({ threads: 1 });
const ids = hostTensor("int64", [1, 6], BigInt64Array.of(5n, 60n, 17n, 33n, 8n, 91n));
const distance = (a: Float32Array, b: Float32Array) =>
  a.length === b.length ? Math.max(...a.map((v, i) => Math.abs(v - b[i]!))) : Infinity;

async function logits(model: CausalLM): Promise<Float32Array> {
  const program = await device.compile(trace({ ids }, (i) => ({ y: model.logits(model.forward({ ids: i.ids }).hidden) })));
  return ((await program.run({ ids })).y!.data as Float32Array).slice();
}

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-kinds-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** A copy of a fixture's adapter with another configuration. */
function changed(name: string, change: object): string {
  cpSync(at(name), directory, { recursive: true });
  const file = join(directory, "adapter_config.json");
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...change }));
  return directory;
}

describe("quantised bases", () => {
  test.each(["peft-dora", "peft-ia3", "peft-lora-layers"])(
    "%s stands on 4-bit weights, whose norms and values are those it is merged with",
    async (name) => {
      const model = loadCausalLM(at("llama-tiny"));
      setBaseDtype(model, "nf4");
      const base = await logits(model);
      loadAdapter(model, at(name));
      const adapted = await logits(model);
      expect(distance(adapted, base)).toBeGreaterThan(1e-2);
      if (name === "peft-lora-layers") return;
      mergeAdapters(model, device);
      expect(distance(await logits(model), adapted)).toBeLessThan(1e-4);
    },
  );
});

describe("weight-decomposed updates", () => {
  /** W [2, 3] with a bias, A of ones, B (1, −1), s = 2, m = (5, 7). */
  function layer(dropout: number) {
    const base = new Linear(3, 2, { init: zeros, bias: true }).freeze();
    base.weight.storage = floats([2, 3], Float32Array.of(1, 0, 0, 0, 2, 2));
    base.bias!.storage = floats([2], Float32Array.of(10, 20));
    const adapted = new LoraLinear(base, { rank: 1, scaling: 2, dropout, initA: ones, decomposed: true });
    adapted.lora_B.weight.storage = floats([2, 1], Float32Array.of(1, -1));
    adapted.lora_magnitude_vector!.storage = floats([2], Float32Array.of(5, 7));
    return new (class extends Module {
      proj = adapted;
      forward(x: Tensor): Tensor {
        return this.proj.forward(x);
      }
    })().assignNames();
  }
  // W + s·B·A is (3, 2, 2) and (−2, 0, 0), of norms √17 and 2; x = (1, 0, 2) gives 7 and −2.
  const x = hostTensor("float32", [1, 3], Float32Array.of(1, 0, 2));
  const expected = [10 + (5 / Math.sqrt(17)) * 7, 20 + (7 / 2) * -2];

  test("are m·(W + s·B·A)·x/‖W + s·B·A‖ by hand, also merged", async () => {
    const model = layer(0);
    const run = async () =>
      (await (await device.compile(trace({ x }, (i) => ({ y: model.forward(i.x) })))).run({ x })).y!.data as Float32Array;
    const close = (values: Float32Array) => {
      for (const [i, value] of values.entries()) expect(value).toBeCloseTo(expected[i]!, 5);
    };
    close(await run());
    mergeAdapters(model, device);
    close(await run());
  });

  test("start as the base model, whatever the scale", async () => {
    const model = loadCausalLM(at("llama-tiny"));
    const base = await logits(model);
    applyWeights(model, [lora({ rank: 4, targets: "all-linear", decomposed: true })]);
    expect(distance(await logits(model), base)).toBeLessThan(1e-4);
  });

  test("with everything dropped are the base layer, scaled in nothing", async () => {
    const model = layer(1 - 1e-9);
    const inputs = {
      x,
      [randomInputs.seed]: hostTensor("int32", [], Int32Array.of(1)),
      [randomInputs.step]: hostTensor("int32", [], Int32Array.of(1)),
    };
    const program = await device.compile(trace({ x }, (i) => ({ y: inTraining(() => model.forward(i.x)) })));
    expect(Array.from((await program.run(inputs)).y!.data as Float32Array)).toEqual([11, 24]);
  });
});

describe("tied embeddings", () => {
  test("are untied where an adapter changes one of the two, which is said and saved", async () => {
    const model = loadCausalLM(at("llama-tiny-tied"));
    const { notes, graft } = loadAdapter(model, at("peft-lora-tied-targets"));
    expect(notes).toEqual(["The output head is untied from the embedding, because the adapter changes one of them and not the other."]);
    expect(model.head).toBeDefined();
    mergeAdapters(model, device);
    saveModel(directory, model, { source: at("llama-tiny-tied") });
    expect(JSON.parse(readFileSync(join(directory, "config.json"), "utf8"))).toMatchObject({ tie_word_embeddings: false });
    graft.undo();
    expect(model.head).toBeUndefined();
  });

  test("stay tied otherwise", () => {
    const model = loadCausalLM(at("llama-tiny-tied"));
    expect(loadAdapter(model, at("peft-lora-tokens-tied")).notes).toEqual([]);
    expect(model.head).toBeUndefined();
    applyWeights(loadCausalLM(at("llama-tiny-tied")), [lora({ targets: "all-linear" })]);
    expect(model.head).toBeUndefined();
  });
});

describe("refuses", () => {
  test.each([
    ["peft-dora", { layer_replication: [[0, 1]] }, /layer_replication = \[\[0,1\]\]/],
    ["peft-dora", { ensure_weight_tying: true }, /ensure_weight_tying = true/],
    ["peft-ia3", { invented_in_2030: { on: true } }, /invented_in_2030/],
    ["peft-prompt", { invented_in_2030: 3 }, /invented_in_2030 = 3/],
    ["peft-prefix", { num_transformer_submodules: 2 }, /num_transformer_submodules is 2/],
    ["peft-prompt", { num_virtual_tokens: 7 }, /prompt_embeddings is \[5,48\] and would have to be \[7,48\]/],
    [
      "peft-lora-tokens",
      { trainable_token_indices: { embed_tokens: [5, 9, 700] } },
      /token 700 .* outside the embedding "model\.embed_tokens" of 128 tokens/,
    ],
    ["peft-lora-tokens", { trainable_token_indices: { lm_head: [5, 9, 77] } }, /"lm_head", which is no Embedding/],
    [
      "peft-lora-tied",
      { modules_to_save: ["embed_tokens", "lm_had"] },
      /"lm_had" that is to be trained in full is not in the model.* Nearest: lm_head/,
    ],
  ] as [string, object, RegExp][])("%s with %j", (name, change, message) => {
    const model = loadCausalLM(at(name === "peft-lora-tied" ? "llama-tiny-tied" : "llama-tiny"));
    const names = Array.from(model.namedParameters(), ([path]) => path);
    expect(() => loadAdapter(model, changed(name, change))).toThrow(message);
    expect(Array.from(model.namedParameters(), ([path]) => path)).toEqual(names);
  });

  test.each(["peft-ia3-gpt2", "peft-lora-gpt2", "peft-dora-gpt2"])(
    "%s on another model, naming tensors and the nearest of the model",
    (name) => {
      expect(() => loadAdapter(loadCausalLM(at("llama-tiny")), at(name))).toThrow(
        /\d+ tensors of the adapter match nothing in the model: transformer\.\S+, .* \(nearest: \S+\)/,
      );
    },
  );

  test("an adapter on an adapted layer, an update with bias and magnitude, and to resize what is adapted", () => {
    const model = loadCausalLM(at("llama-tiny"));
    loadAdapter(model, at("peft-ia3"));
    expect(() => loadAdapter(model, at("peft-lora-all-linear"))).toThrow(/carries an adapter already/);
    expect(() => applyWeights(loadCausalLM(at("llama-tiny")), [lora({ decomposed: true, updateBias: true })])).toThrow(
      /cannot be weight-decomposed/,
    );
    expect(() => ia3({ tragets: ["k_proj"] } as never)).toThrow(/tragets/);
    const tied = loadCausalLM(at("llama-tiny-tied"));
    loadAdapter(tied, at("peft-lora-tokens-tied"));
    expect(() => resizeTokenEmbeddings(tied, 200)).toThrow(/carries an adapter/);
  });
});

test("a normal start of B makes an embedding's update zero until A learns", async () => {
  const model = loadCausalLM(at("llama-tiny"));
  const base = await logits(model);
  applyWeights(model, [lora({ targets: ["embed_tokens"], rank: 2 })]);
  expect(await logits(model)).toEqual(base);
  const [a, b] = model.trainableParameters();
  expect([a!.name, b!.name]).toEqual(["model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"]);
  a!.storage = normal(new Random(1), 0.3)(a!.shape);
  expect(distance(await logits(model), base)).toBeGreaterThan(1e-2);
});
