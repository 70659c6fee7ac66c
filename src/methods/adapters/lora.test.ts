import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openSafetensors, readPeftAdapter, readStorage } from "../../checkpoints/index.ts";
import { type Tensor, trace } from "../../graph/index.ts";
import type { CausalLM, SequenceClassifier } from "../../models/index.ts";
import { loadCausalLM, loadSequenceClassifier, saveModel } from "../../models/index.ts";
import { floats, Linear, Module, ones, zeros } from "../../nn/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { applyWeights } from "../../train/method.ts";
import { ia3, loadAdapter, lora, mergeAdapters } from "../index.ts";
import { LoraLinear } from "./lora-linear.ts";

const fixtures = "tests/fixtures";
const device = cpu({ threads: 1 });
const expected = (name: string) =>
  JSON.parse(readFileSync(join(fixtures, name, "expected.json"), "utf8")) as { input_ids: number[][]; attention_mask?: number[][] };
const expectedLogits = (name: string) =>
  readStorage(openSafetensors(join(fixtures, name, "expected.safetensors")).tensors.get("logits")!) as Float32Array;
const ids = (rows: number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));

async function causalLogits(model: CausalLM, rows: number[][]): Promise<Float32Array> {
  const host = ids(rows);
  const program = await device.compile(
    trace({ ids: host }, (inputs) => ({ logits: model.logits(model.forward({ ids: inputs.ids }).hidden) })),
  );
  return (await program.run({ ids: host })).logits!.data as Float32Array;
}

async function classLogits(model: SequenceClassifier, rows: number[][], lengths: number[]): Promise<Float32Array> {
  const feeds = { ids: ids(rows), lengths: hostTensor("int64", [lengths.length], BigInt64Array.from(lengths, BigInt)) };
  const program = await device.compile(trace(feeds, (inputs) => ({ logits: model.forward(inputs.ids, inputs.lengths) })));
  return (await program.run(feeds)).logits!.data as Float32Array;
}

const distance = (a: Float32Array, b: Float32Array) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-lora-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe("adapters that PEFT wrote", () => {
  test("a causal model's logits equal PEFT's", async () => {
    const model = loadCausalLM(join(fixtures, "llama-tiny"));
    const { input_ids } = expected("llama-tiny-lora");
    const base = await causalLogits(model, input_ids);
    loadAdapter(model, join(fixtures, "llama-tiny-lora"));
    const logits = await causalLogits(model, input_ids);
    expect(distance(logits, expectedLogits("llama-tiny-lora"))).toBeLessThan(1e-5);
    expect(distance(logits, base)).toBeGreaterThan(1e-2);
  });

  test("a classifier's logits equal PEFT's, head included, on right-padded rows", async () => {
    const { input_ids, attention_mask } = expected("llama-tiny-seqcls-lora");
    const model = loadSequenceClassifier(join(fixtures, "llama-tiny"), ["a", "b"]);
    loadAdapter(model, join(fixtures, "llama-tiny-seqcls-lora"));
    const lengths = attention_mask!.map((row) => row.reduce((a, b) => a + b));
    expect(distance(await classLogits(model, input_ids, lengths), expectedLogits("llama-tiny-seqcls-lora"))).toBeLessThan(1e-5);
  });

  test("an encoder's logits equal PEFT's, which trains all of DistilBERT's head where it names the last layer", async () => {
    const model = loadSequenceClassifier(join(fixtures, "encoder-distilbert"), ["a", "b"]);
    const { parameters } = loadAdapter(model, join(fixtures, "distilbert-seqcls-lora"));
    const { input_ids } = expected("distilbert-seqcls-lora");
    expect(distance(await classLogits(model, input_ids, [10, 10]), expectedLogits("distilbert-seqcls-lora"))).toBeLessThan(1e-5);
    lora({ rank: 2, alpha: 4, targets: ["q_lin", "v_lin"] }).save!(directory, { model, base: "base", parameters });
    const [theirs, ours] = [readPeftAdapter(join(fixtures, "distilbert-seqcls-lora")), readPeftAdapter(directory)];
    expect([...ours.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
    expect(ours.config.modules_to_save).toEqual(["pre_classifier", "classifier"]);
  });

  test("saving what was loaded gives PEFT's names and values back", () => {
    const source = join(fixtures, "llama-tiny-lora");
    const model = loadCausalLM(join(fixtures, "llama-tiny"));
    const { parameters } = loadAdapter(model, source);
    lora({ rank: 4, alpha: 8 }).save!(directory, { model, base: "base", parameters });
    const [theirs, ours] = [readPeftAdapter(source), readPeftAdapter(directory)];
    expect([...ours.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
    for (const [name, storage] of theirs.tensors) expect(readStorage(ours.tensors.get(name)!)).toEqual(readStorage(storage));
    expect(ours.config).toMatchObject({
      r: 4,
      lora_alpha: 8,
      target_modules: ["q_proj", "v_proj"],
      task_type: "CAUSAL_LM",
      base_model_name_or_path: "base",
    });
  });

  test("an adapter of another model is refused, and the message names the tensors", () => {
    const model = loadCausalLM(join(fixtures, "llama-tiny"));
    expect(() => loadAdapter(model, join(fixtures, "llama-tiny-seqcls-lora"))).toThrow(
      /1 tensors of the adapter match nothing in the model: score\.weight/,
    );
  });
});

describe("merging", () => {
  test.each(["llama-tiny", "llama-tiny-sharded-bf16"])(
    "the merged model computes what the adapted one does, and unmerging restores the base bit for bit (%s)",
    async (base) => {
      const model = loadCausalLM(join(fixtures, base));
      const { input_ids } = expected("llama-tiny-lora");
      const q = "model.layers.0.self_attn.q_proj";
      const weight = device.read((model.module(q) as Linear).weight).data;
      loadAdapter(model, join(fixtures, "llama-tiny-lora"));
      const adapted = await causalLogits(model, input_ids);
      const merged = mergeAdapters(model, device);
      expect(merged.modules).toHaveLength(4);
      expect([...model.namedModules()].some(([, m]) => m instanceof LoraLinear)).toBe(false);
      expect(distance(await causalLogits(model, input_ids), adapted)).toBeLessThan(1e-5);
      saveModel(directory, model, { source: join(fixtures, base), dtype: "f32" });
      expect(distance(await causalLogits(loadCausalLM(directory), input_ids), adapted)).toBeLessThan(1e-5);
      merged.unmerge();
      expect(await causalLogits(model, input_ids)).toEqual(adapted);
      expect(device.read(((model.module(q) as LoraLinear).base as Linear).weight).data).toEqual(weight);
    },
  );
});

describe("the base layer", () => {
  const layer = (layout: "out-in" | "in-out") => {
    const base = new Linear(3, 2, { init: zeros, layout, bias: true }).freeze();
    base.weight.storage = floats(base.weight.shape, Float32Array.of(1, 2, 3, 4, 5, 6));
    base.bias!.storage = floats([2], Float32Array.of(10, 20));
    const adapted = new LoraLinear(base, { rank: 1, scaling: 2, dropout: 0, initA: ones });
    adapted.lora_B.weight.storage = floats([2, 1], Float32Array.of(1, -1));
    return new (class extends Module {
      proj: LoraLinear | Linear = adapted;
      forward(x: Tensor): Tensor {
        return this.proj.forward(x);
      }
    })().assignNames();
  };
  const run = async (model: Module & { forward(x: Tensor): Tensor }, row: number[]) => {
    const x = hostTensor("float32", [1, 3], Float32Array.from(row));
    return Array.from((await (await device.compile(trace({ x }, (i) => ({ y: model.forward(i.x) })))).run({ x })).y!.data as Float32Array);
  };

  test("its parameters keep their names beside the adapter's", () => {
    expect(Array.from(layer("out-in").namedParameters(), ([name]) => name)).toEqual([
      "proj.weight",
      "proj.bias",
      "proj.lora_A.weight",
      "proj.lora_B.weight",
    ]);
  });

  // x = (1, 0, 2): x·Aᵀ = 3, the update is 2·3·(1, −1); the base gives (1·1 + 2·3, 1·4 + 2·6), or, kept as [in, out], (1·1 + 2·5, 1·2 + 2·6).
  for (const [layout, expected] of [
    ["out-in", [7 + 10 + 6, 16 + 20 - 6]],
    ["in-out", [11 + 10 + 6, 14 + 20 - 6]],
  ] as const)
    test(`kept as ${layout} is computed and merged`, async () => {
      const model = layer(layout);
      expect(await run(model, [1, 0, 2])).toEqual(expected);
      mergeAdapters(model, device);
      expect(model.proj).toBeInstanceOf(Linear);
      expect(await run(model, [1, 0, 2])).toEqual(expected);
    });
});

describe("options", () => {
  const model = () => loadCausalLM(join(fixtures, "llama-tiny"));

  test("rank 0 is refused with the option's name", () => {
    expect(() => lora({ rank: 0 })).toThrow(/lora: wrong options:\n {2}rank: /);
    expect(() => lora({ rank: 1e9 })).toThrow(/lora: wrong options:\n {2}rank: /);
  });

  test("an unknown option is refused", () => {
    expect(() => lora({ rnak: 4 } as never)).toThrow(/rnak/);
  });

  test("a target that matches nothing suggests the nearest names", () => {
    expect(() => applyWeights(model(), [lora({ targets: ["q_prj"] })])).toThrow(
      /The target "q_prj" matches no Linear or Embedding of the model\. Nearest: q_proj, /,
    );
    expect(() => applyWeights(model(), [lora({ targets: "model\\.layers\\.9\\..*" })])).toThrow(/matches no Linear/);
  });

  test("one of several targets that matches nothing is named", () => {
    expect(() => applyWeights(model(), [lora({ targets: ["q_proj", "query"] })])).toThrow(/The target "query" matches no Linear/);
  });

  test("all-linear adapts every Linear but the head; a regular expression speaks of whole paths", () => {
    const all = model();
    applyWeights(all, [lora({ targets: "all-linear" })]);
    expect(all.trainableParameters()).toHaveLength(2 * 7 * 2);
    expect(all.module("lm_head")).not.toBeInstanceOf(LoraLinear);
    const some = model();
    applyWeights(some, [lora({ targets: "model\\.layers\\.1\\..*_proj" })]);
    expect(some.trainableParameters().every((p) => p.name.startsWith("model.layers.1."))).toBe(true);
  });

  test("the head of a classifier is trained in full and saved with the adapter", () => {
    const classifier = loadSequenceClassifier(join(fixtures, "llama-tiny"), ["a", "b", "c"]);
    const method = lora({ rank: 2, targets: ["q_proj"] });
    applyWeights(classifier, [method]);
    expect(classifier.trainableParameters().map((p) => p.name)).toContain("score.weight");
    method.save!(directory, { model: classifier, parameters: classifier.trainableParameters() });
    const { config, tensors } = readPeftAdapter(directory);
    expect(config).toMatchObject({ task_type: "SEQ_CLS", modules_to_save: ["score"] });
    expect(tensors.has("score.weight")).toBe(true);
  });

  test("two seeds start from different updates, one seed from the same", () => {
    const start = (seed: number) => {
      const m = model();
      applyWeights(m, [lora({ seed })]);
      return Array.from((m.trainableParameters()[0]!.storage as { data: Float32Array }).data);
    };
    expect(start(1)).toEqual(start(1));
    expect(start(1)).not.toEqual(start(2));
  });
});

test.each([
  ["encoder-distilbert", lora({ rank: 2, targets: "all-linear" })],
  ["encoder-bert", lora({ rank: 2, targets: ["query", "pooler.dense"] })],
  ["encoder-bert", ia3({ targets: ["key", "value"] })],
  ["llama-tiny", lora({ rank: 2, modulesToSave: ["embed_tokens"] })],
])("%s: all of a classifier's new head is saved with the adapter, whatever the seed of the base", async (base, method) => {
  const open = (seed: number) => loadSequenceClassifier(join(fixtures, base), ["a", "b"], { seed });
  const model = open(1);
  applyWeights(model, [method]);
  const rows = [[2, 5, 9, 11, 3]];
  const logits = await classLogits(model, rows, [5]);
  await method.save!(directory, { model, base, parameters: model.trainableParameters() });
  const again = open(2);
  loadAdapter(again, directory);
  expect(await classLogits(again, rows, [5])).toEqual(logits);
});

test("an ending that is given as a single text, which must match the whole path, is refused with what to write instead", () => {
  const model = loadCausalLM(join(fixtures, "llama-tiny"));
  expect(() => applyWeights(model, [lora({ targets: "q_proj" })])).toThrow(/regular expression for the whole path; give endings as a list/);
});
