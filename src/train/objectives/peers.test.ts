/** Losses and gradients against sentence-transformers, trl, peft and torch (fixture `objectives`). */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { grad } from "../../autodiff/index.ts";
import { openSafetensors } from "../../checkpoints/index.ts";
import { type Tensor, trace } from "../../graph/index.ts";
import { loadAdapter } from "../../methods/adapters/load-adapter.ts";
import { loadCausalLM, loadSentenceEncoder } from "../../models/index.ts";
import { floats, type Module, type Parameter } from "../../nn/index.ts";
import { div } from "../../ops/index.ts";
import { type HostTensor, hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import {
  completionLogProbabilities,
  contrastive,
  directPreference,
  distilledLanguageModel,
  type Objective,
  sentenceSimilarity,
} from "./index.ts";

const fixtures = new URL("../../../tests/fixtures/", import.meta.url).pathname;
const expected = JSON.parse(readFileSync(join(fixtures, "objectives/expected.json"), "utf8"));
const { tensors } = openSafetensors(join(fixtures, "objectives/expected.safetensors"));
const peer = (name: string) => readStorage(tensors.get(name)!, "float32") as Float32Array;

const ids = (rows: number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));
const vector = (values: number[]) => hostTensor("float32", [values.length], Float32Array.from(values));

/** The mean loss, the further outputs, and the gradients of some parameters. */
async function measure(objective: Objective, feeds: Record<string, HostTensor>, parameters: readonly Parameter[] = []) {
  const device = cpu({ threads: 1 });
  const program = await device.compile(
    trace(feeds, (inputs) => {
      const { total, weight, outputs } = objective.trace(inputs);
      const loss = div(total, weight);
      const gradients = grad(
        loss,
        parameters.map((p) => p.value),
      );
      return { loss, ...outputs, ...Object.fromEntries(gradients.map((g, i): [string, Tensor] => [`gradient.${i}`, g])) };
    }),
  );
  const out = await program.run(feeds);
  await device.dispose();
  return {
    loss: (out.loss!.data as Float32Array)[0]!,
    out,
    gradients: parameters.map((_, i) => out[`gradient.${i}`]!.data as Float32Array),
  };
}

function near(values: Float32Array, reference: ArrayLike<number>, tolerance = 2e-5): void {
  expect(values.length).toBe(reference.length);
  const size = Math.max(...Array.from(reference, Math.abs));
  for (let i = 0; i < values.length; i++) expect(Math.abs(values[i]! - reference[i]!)).toBeLessThanOrEqual(tolerance * size);
}

const named = (model: Module, names: readonly string[]): Parameter[] => {
  const all = new Map(model.namedParameters());
  return names.map((name) => all.get(name)!);
};

describe("contrastive, against sentence-transformers", () => {
  const { columns, scores } = expected.contrastive as {
    columns: { input_ids: number[][]; attention_mask: number[][] }[];
    scores: number[];
  };
  const names = [
    "embeddings.word_embeddings.weight",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.1.output.LayerNorm.bias",
  ];
  const texts = (count: number) =>
    Object.fromEntries(
      columns.slice(0, count).flatMap(({ input_ids, attention_mask }, i) => [
        [`ids${i}`, ids(input_ids)],
        [`attentionMask${i}`, ids(attention_mask)],
      ]),
    );
  const labels = hostTensor("int64", [5], BigInt64Array.of(0n, 1n, 2n, 3n, 4n));
  const load = () => {
    const model = loadSentenceEncoder(join(fixtures, "encoder-bert-bare"));
    for (const p of model.parameters()) p.frozen = false;
    const all = new Map(model.namedParameters());
    const own = [...all.keys()].filter((name) => names.some((wanted) => name.endsWith(wanted)));
    return { model, parameters: names.map((wanted) => all.get(own.find((name) => name.endsWith(wanted))!)!) };
  };

  for (const chunk of [undefined, 2, 1]) {
    const how = chunk === undefined ? "whole" : `in chunks of ${chunk}`;
    test.each([
      ["pairs", 2, {}],
      ["hard", 3, { scale: 10 }],
      ["symmetric", 2, { symmetric: true }],
    ] as const)(`%s, the batch ${how}`, async (name, count, options) => {
      const { model, parameters } = load();
      const objective = contrastive(model, { ...options, ...(chunk !== undefined && { chunk }) });
      const { loss, gradients } = await measure(objective, { ...texts(count), labels }, parameters);
      expect(loss).toBeCloseTo(expected.contrastive[name], 5);
      for (const [i, g] of gradients.entries()) near(g, peer(`contrastive.${name}/${names[i]}`));
    });
    test(`similarity of sentences, the batch ${how}`, async () => {
      const { model, parameters } = load();
      const feeds = { ...texts(2), scores: vector(scores), weights: vector([1, 1, 1, 1, 1]) };
      const { loss, gradients } = await measure(sentenceSimilarity(model, { chunk }), feeds, parameters);
      expect(loss).toBeCloseTo(expected.contrastive.regression, 5);
      for (const [i, g] of gradients.entries()) near(g, peer(`contrastive.regression/${names[i]}`));
    });
  }

  test("a row without a label and candidates that are excluded change nothing", async () => {
    const { model } = load();
    const whole = await measure(contrastive(model), { ...texts(2), labels });
    const more = Object.fromEntries(Object.entries(texts(2)).map(([name, t]) => [name, ids([...rows(t), rows(t)[0]!])]));
    const excluded = hostTensor(
      "bool",
      [6, 6],
      Uint8Array.from({ length: 36 }, (_, i) => (i % 6 === 5 ? 1 : 0)),
    );
    const padded = await measure(contrastive(model), {
      ...more,
      labels: hostTensor("int64", [6], BigInt64Array.of(0n, 1n, 2n, 3n, 4n, -100n)),
      excluded,
    });
    expect(padded.loss).toBeCloseTo(whole.loss, 5);
  });

  test("options that make no sense are refused", () => {
    const { model } = load();
    expect(() => contrastive(model, { scale: 0 })).toThrow(/scale must be a number above 0/);
    expect(() => contrastive(model, { chunk: 0 })).toThrow(/at least 1, not 0/);
    expect(() => contrastive(model, { chunk: 2.5 })).toThrow(/not 2.5/);
  });
});

const rows = ({ data, shape }: HostTensor): number[][] => {
  const [count, length] = shape as [number, number];
  return Array.from({ length: count }, (_, i) =>
    Array.from(data as BigInt64Array)
      .slice(i * length, (i + 1) * length)
      .map(Number),
  );
};

describe("direct preference, against trl", () => {
  const { preference } = expected;
  const feeds = { ids: ids(preference.ids), targets: ids(preference.targets) };
  const load = () => {
    const model = loadCausalLM(join(fixtures, "llama-tiny"));
    model.freeze();
    loadAdapter(model, join(fixtures, "peft-lora-all-linear"));
    const adapter = [...model.namedParameters()].filter(([name]) => name.includes("lora_"));
    for (const [, p] of adapter) p.frozen = false;
    const layer = "model.layers.0.self_attn.q_proj";
    return { model, parameters: named(model, [`${layer}.lora_A.weight`, `${layer}.lora_B.weight`]) };
  };
  const cases = [
    ["sigmoid", { loss: "sigmoid" }],
    ["hinge", { loss: "hinge" }],
    ["ipo", { loss: "ipo" }],
    ["smoothed", { labelSmoothing: 0.2 }],
  ] as const;

  for (const from of ["the adapters switched off", "log-probabilities fed"] as const)
    test.each(cases)(`%s, the reference from ${from}`, async (name, options) => {
      const { model, parameters } = load();
      const fed = from === "log-probabilities fed" ? { ...feeds, reference: vector(preference.reference) } : feeds;
      const { loss, out, gradients } = await measure(directPreference(model, options), fed, parameters);
      expect(loss / preference[name]).toBeCloseTo(1, 5);
      near(out.chosen!.data as Float32Array, preference.chosen);
      near(out.rejected!.data as Float32Array, preference.rejected);
      near(gradients[0]!, peer(`preference.${name}/lora_A`), 1e-4);
      near(gradients[1]!, peer(`preference.${name}/lora_B`), 1e-4);
    });

  test("the log-probabilities of the model without an adapter are the reference", async () => {
    const model = loadCausalLM(join(fixtures, "llama-tiny"));
    const { out } = await measure(completionLogProbabilities(model), feeds);
    near(out.logProbabilities!.data as Float32Array, preference.reference);
  });

  test("pairs without an answer count nothing", async () => {
    const { model } = load();
    const more = { ids: ids(doubled(preference.ids)), targets: ids(doubled(preference.targets, -100)) };
    expect((await measure(directPreference(model), more)).loss).toBeCloseTo(preference.sigmoid, 5);
  });

  test("a reference that does not exist, and options that make no sense", () => {
    const types = { ids: feeds.ids, targets: feeds.targets };
    const bare = loadCausalLM(join(fixtures, "llama-tiny"));
    expect(() => trace(types, (i) => ({ y: directPreference(bare).trace(i).total }))).toThrow(/without its adapters, but .* is trained/);
    bare.freeze();
    expect(() => trace(types, (i) => ({ y: directPreference(bare).trace(i).total }))).toThrow(/but it has none/);
    const { model } = load();
    model.decoder.embedding.weight.frozen = false;
    expect(() => trace(types, (i) => ({ y: directPreference(model).trace(i).total }))).toThrow(
      /"model.embed_tokens.weight" of the model itself/,
    );
    expect(() => directPreference(model, { beta: 0 })).toThrow(/beta must be a number above 0/);
    expect(() => directPreference(model, { labelSmoothing: 0.5 })).toThrow(/lies in \[0, 0.5\)/);
    expect(() => directPreference(model, { loss: "ipo", labelSmoothing: 0.1 })).toThrow(/belongs to the sigmoid loss/);
  });
});

/** Every half with a copy of its first row behind it. */
const doubled = (values: number[][], value?: number): number[][] => {
  const half = values.length / 2;
  const copy = (row: number[]) => (value === undefined ? row : row.map(() => value));
  return [...values.slice(0, half), copy(values[0]!), ...values.slice(half), copy(values[half]!)];
};

describe("distillation, against torch", () => {
  const { distillation } = expected;
  const feeds = { ids: ids(distillation.ids), targets: ids(distillation.targets) };
  const names = ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"];
  const options = { temperature: distillation.temperature, alpha: distillation.alpha, classes: distillation.classes };
  const load = () => {
    const student = loadCausalLM(join(fixtures, "llama-tiny"));
    for (const p of student.parameters()) p.frozen = false;
    return { student, teacher: loadCausalLM(join(fixtures, "decoder-qwen2")) };
  };
  test.each([
    ["forward", undefined],
    ["forward", 4],
    ["reverse", 5],
  ] as const)("%s divergence, %s targets at a time", async (divergence, chunk) => {
    const { student, teacher } = load();
    const { loss, gradients } = await measure(
      distilledLanguageModel(student, teacher, { ...options, divergence, ...(chunk !== undefined && { chunk }) }),
      feeds,
      named(student, names),
    );
    expect(loss).toBeCloseTo(distillation[divergence], 5);
    for (const [i, g] of gradients.entries()) near(g, peer(`distillation.${divergence}/${names[i]}`));
    expect(teacher.trainableParameters()).toEqual([]);
  });

  test("hidden states through a projection between two widths", async () => {
    const { student, teacher } = load();
    const states = { layers: [["model.layers.0", "model.layers.0"]], weight: 0.5 } as const;
    const objective = distilledLanguageModel(student, teacher, { ...options, states });
    const [projection] = objective.parameters!;
    projection!.storage = floats(projection!.shape, peer("distillation/projection"));
    const { loss, gradients } = await measure(objective, feeds, [...named(student, names), projection!]);
    expect(loss / distillation.states).toBeCloseTo(1, 5);
    for (const [i, name] of [...names, "projection"].entries()) near(gradients[i]!, peer(`distillation.states/${name}`));
  });

  test("models of other vocabularies, and what names no hidden states", () => {
    const { student, teacher } = load();
    const types = { ids: feeds.ids, targets: feeds.targets };
    expect(() => trace(types, (i) => ({ y: distilledLanguageModel(student, teacher).trace(i).total }))).toThrow(
      /must mean the same classes/,
    );
    const states = (layers: readonly (readonly [string, string])[]) => () =>
      distilledLanguageModel(student, teacher, { states: { layers } });
    expect(states([])).toThrow(/at least one pair of layers/);
    expect(states([["model.layers.7", "model.layers.0"]])).toThrow(/No module "model.layers.7" ran/);
    expect(states([["model.layers.0.self_attn.k_norm", "model.layers.0"]])).toThrow(/k_norm" ran/);
    expect(() => distilledLanguageModel(student, teacher, { temperature: 0 })).toThrow(/temperature must be a number above 0/);
    expect(() => distilledLanguageModel(student, teacher, { alpha: 2 })).toThrow(/alpha lies in \[0, 1\]/);
  });
});
