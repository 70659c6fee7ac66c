/** Adapters that PEFT wrote, of every kind: the same logits, the same continuations, and back into PEFT's format. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { grad } from "../../autodiff/index.ts";
import { openSafetensors, readPeftAdapter, readStorage } from "../../checkpoints/index.ts";
import { Decoder } from "../../generate/index.ts";
import { trace } from "../../graph/index.ts";
import {
  type CausalLM,
  loadCausalLM,
  loadSequenceClassifier,
  resizeTokenEmbeddings,
  type SequenceClassifier,
  saveModel,
} from "../../models/index.ts";
import { div } from "../../ops/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { causalLanguageModel } from "../../train/objectives/index.ts";
import { type LoadedAdapter, loadAdapter, mergeAdapters, trainingMethods } from "../index.ts";

interface Expected {
  base: string;
  input_ids: number[][];
  num_labels?: number;
  greedy?: { input_ids: number[]; generated: number[] }[];
}

const fixtures = "tests/fixtures";
const at = (name: string) => join(fixtures, name);
const device = cpu({ threads: 1 });
const names = readdirSync(fixtures).filter((name) => name.startsWith("peft-") && name !== "peft-combined");
const expectedOf = (name: string) => JSON.parse(readFileSync(join(at(name), "expected.json"), "utf8")) as Expected;

/** PEFT's logits; those of virtual tokens, which stand before the others, are left out. */
function expectedLogits(name: string): Float32Array {
  const storage = openSafetensors(join(at(name), "expected.safetensors")).tensors.get("logits")!;
  const values = readStorage(storage) as Float32Array;
  const [rows, columns, vocabulary] = storage.shape as [number, number, number | undefined];
  if (vocabulary === undefined) return values;
  const time = expectedOf(name).input_ids[0]!.length;
  const kept = Array.from({ length: rows }, (_, row) => [
    ...values.subarray((row * columns + columns - time) * vocabulary, (row + 1) * columns * vocabulary),
  ]);
  return Float32Array.from(kept.flat());
}
const distance = (a: Float32Array, b: Float32Array) =>
  a.length === b.length ? Math.max(...a.map((v, i) => Math.abs(v - b[i]!))) : Infinity;

const isClassifier = (model: CausalLM | SequenceClassifier): model is SequenceClassifier => "score" in model;
function open(name: string): CausalLM | SequenceClassifier {
  const { base, num_labels } = expectedOf(name);
  return num_labels === undefined
    ? loadCausalLM(at(base))
    : loadSequenceClassifier(
        at(base),
        Array.from({ length: num_labels }, (_, i) => `${i}`),
      );
}

async function logits(model: CausalLM | SequenceClassifier, rows: number[][]): Promise<Float32Array> {
  const ids = hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));
  const lengths = hostTensor(
    "int64",
    [rows.length],
    BigInt64Array.from(rows, (row) => BigInt(row.length)),
  );
  const program = await device.compile(
    trace({ ids, lengths }, (i) => ({
      y: isClassifier(model) ? model.forward(i.ids, i.lengths) : model.logits(model.forward({ ids: i.ids }).hidden),
    })),
  );
  const { y } = await program.run({ ids, lengths });
  await program.dispose();
  return (y!.data as Float32Array).slice();
}

const load = (model: CausalLM | SequenceClassifier, name: string): LoadedAdapter =>
  loadAdapter(model, at(name), { resize: name === "peft-lora-resized" });

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-peft-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe.each(names)("%s", (name) => {
  const { input_ids, greedy } = expectedOf(name);

  test("gives PEFT's logits; without it the model is what it was", async () => {
    const model = open(name);
    if (name === "peft-lora-resized") resizeTokenEmbeddings(model as CausalLM, 131);
    const base = await logits(model, input_ids);
    const { graft, parameters } = load(model, name);
    expect(parameters.length).toBeGreaterThan(0);
    const adapted = await logits(model, input_ids);
    expect(distance(adapted, expectedLogits(name))).toBeLessThan(1e-4);
    expect(distance(adapted, base)).toBeGreaterThan(1e-2);
    const paths = Array.from(model.namedParameters(), ([path]) => path);
    graft.undo();
    expect(await logits(model, input_ids)).toEqual(base);
    graft.redo();
    expect(Array.from(model.namedParameters(), ([path]) => path)).toEqual(paths);
    expect(await logits(model, input_ids)).toEqual(adapted);
    model.freeze();
    expect(distance(await logits(model, input_ids), expectedLogits(name))).toBeLessThan(1e-4);
  });

  if (greedy)
    test("continues two prompts together as PEFT continues each alone", async () => {
      const model = open(name) as CausalLM;
      const context = model.contextLength;
      load(model, name);
      const decoder = await Decoder.create(device, model);
      const tokens = readPeftAdapter(at(name)).config.num_virtual_tokens as number;
      expect(decoder.context).toBe(context - tokens);
      const decoding = await decoder.start(greedy.map((row) => row.input_ids));
      const generated: number[][] = greedy.map(() => []);
      for (let step = 0; step < greedy[0]!.generated.length; step++) {
        const next = generated.map((row, i) => {
          const scores = decoding.logits(i);
          const best = scores.indexOf(Math.max(...scores));
          row.push(best);
          return best;
        });
        await decoding.push(next);
      }
      expect(generated).toEqual(greedy.map((row) => row.generated));
      await decoder.dispose();
    });

  const gradients = new Map(
    [...openSafetensors(join(at(name), "expected.safetensors")).tensors].filter(([key]) => key.startsWith("gradient.")),
  );
  if (gradients.size > 0)
    test("has PEFT's gradients", async () => {
      const model = open(name) as CausalLM;
      const { graft } = load(model, name);
      const ids = hostTensor("int64", [2, 10], BigInt64Array.from(input_ids.flat(), BigInt));
      const targets = hostTensor(
        "int64",
        [2, 10],
        BigInt64Array.from(
          input_ids.flatMap((row) => [...row.slice(1), -100]),
          BigInt,
        ),
      );
      const program = await device.compile(
        trace({ ids, targets }, (inputs) => {
          const { total, weight } = causalLanguageModel(model).trace(inputs);
          const places = [...graft.places].filter(([, p]) => !p.frozen);
          const found = grad(
            div(total, weight),
            places.map(([, p]) => p.value),
          );
          return Object.fromEntries(places.map(([key], i) => [key, found[i]!]));
        }),
      );
      const ours = await program.run({ ids, targets });
      expect(Object.keys(ours)).toHaveLength(gradients.size);
      for (const [key, storage] of gradients) {
        const theirs = readStorage(storage) as Float32Array;
        const path = key.replace(/^gradient\.(base_model\.model\.)?/, "").replace(".base_layer.", ".");
        const size = Math.max(...theirs.map(Math.abs));
        expect(distance(ours[path]!.data as Float32Array, theirs), path).toBeLessThan(1e-4 * Math.max(size, 0.1));
        expect(size, path).toBeGreaterThan(1e-5);
      }
    });

  if (/lora|dora|ia3/.test(name))
    test("merged it is a model of its own that computes the same, and unmerging brings the adapter back", async () => {
      const model = open(name) as CausalLM;
      load(model, name);
      const adapted = await logits(model, input_ids);
      if (name === "peft-lora-layers") {
        expect(() => mergeAdapters(model, device)).toThrow(/The update of "model\.layers\.1\.mlp\.up_proj" has a bias|k_proj" has a bias/);
        expect(await logits(model, input_ids)).toEqual(adapted);
        return;
      }
      const { modules, unmerge } = mergeAdapters(model, device);
      expect(modules.length).toBeGreaterThan(0);
      expect(distance(await logits(model, input_ids), adapted)).toBeLessThan(1e-4);
      saveModel(directory, model, { source: at(expectedOf(name).base) });
      expect(distance(await logits(loadCausalLM(directory), input_ids), adapted)).toBeLessThan(1e-4);
      unmerge();
      expect(await logits(model, input_ids)).toEqual(adapted);
    });

  test("is saved under PEFT's names with the same values", async () => {
    const model = open(name);
    const { method: slug, parameters, config } = load(model, name);
    const method = trainingMethods.find(({ card }) => card.slug === slug)!(optionsLike(config));
    await method.save!(directory, { model, base: "base", parameters });
    const [theirs, ours] = ["adapter_model.safetensors"].flatMap((file) => [
      openSafetensors(join(at(name), file)).tensors,
      openSafetensors(join(directory, file)).tensors,
    ]) as [Map<string, never>, Map<string, never>];
    // The table of an adapted or resized embedding is the base's, and is not written again.
    const wanted = [...theirs.keys()].filter(
      (key) => !/(embed_tokens|wte|lm_head)(\.base_layer)?\.weight$/.test(key) || name === "peft-lora-tied",
    );
    expect([...ours.keys()].sort()).toEqual(wanted.sort());
    for (const key of wanted) expect(readStorage(ours.get(key)!), key).toEqual(readStorage(theirs.get(key)!));
    if (name === "peft-lora-resized") return;
    const again = open(name);
    loadAdapter(again, directory);
    expect(distance(await logits(again, input_ids), expectedLogits(name))).toBeLessThan(1e-4);
  });
});

/** Options of the method that say what a configuration says. */
function optionsLike(config: LoadedAdapter["config"]): object {
  if (config.peft_type === "IA3")
    return { targets: config.target_modules, feedForward: config.feedforward_modules, modulesToSave: config.modules_to_save ?? [] };
  if (config.peft_type !== "LORA") return {};
  return {
    rank: config.r,
    alpha: config.lora_alpha,
    targets: config.target_modules,
    ...(config.exclude_modules && { exclude: config.exclude_modules }),
    ...(config.layers_to_transform && { layers: config.layers_to_transform }),
    rankPattern: config.rank_pattern ?? {},
    alphaPattern: config.alpha_pattern ?? {},
    rankStabilized: config.use_rslora,
    decomposed: config.use_dora ?? false,
    bias: config.bias,
    updateBias: config.lora_bias ?? false,
    modulesToSave: config.modules_to_save ?? [],
    ...(config.trainable_token_indices && { tokens: Object.values(config.trainable_token_indices).flat() }),
  };
}
