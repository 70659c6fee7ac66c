/**
 * Published checkpoints load by name: from the configuration as each was published, Espalier builds a model with the tensors that transformers
 * builds (`tests/fixtures/make_published.py`), name for name and shape for shape. The numbers of parameters are the published ones.
 */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { readJsonFile } from "../checkpoints/index.ts";
import { elementCount } from "../graph/index.ts";
import type { Module } from "../nn/index.ts";
import { builderOf, familyOf } from "./families/index.ts";
import type { Task } from "./family.ts";

type Shapes = Readonly<Record<string, readonly number[]>>;

interface Published {
  name: string;
  config: Record<string, unknown>;
  /** By the class of transformers. */
  models: Record<string, { parameters: number; tensors: string; unused?: Shapes; buffers?: Shapes }>;
}

const file = new URL("../../tests/fixtures/published-configs.json", import.meta.url).pathname;
const published = readJsonFile(file) as Published[];

/** What a class of transformers is here. */
const tasks: readonly [RegExp, Task][] = [
  [/ForCausalLM$|LMHeadModel$/, "causalLM"],
  [/ForMaskedLM$/, "maskedLM"],
  [/ForSequenceClassification$/, "sequenceClassifier"],
  [/ForTokenClassification$/, "tokenClassifier"],
  [/ForImageClassification(WithTeacher)?$/, "imageClassifier"],
  [/ForCTC$/, "ctcModel"],
  [/^Whisper/, "speechSeq2Seq"],
  [/ForConditionalGeneration$/, "seq2seq"],
  [/^CLIPModel$/, "imageTextModel"],
  [/^(ViT|Dinov2)Model$/, "imageModel"],
  [/^HubertModel$/, "speechModel"],
  [/Model$/, "sentenceEncoder"],
];

function build(className: string, { name, config }: Published) {
  const family = familyOf(config, name);
  const task = tasks.find(([pattern]) => pattern.test(className))![1];
  const labels = Array.from({ length: (config.num_labels as number | undefined) ?? 2 }, (_, i) => `LABEL_${i}`);
  const builder = builderOf(family, task, name) as (config: unknown, labels?: unknown) => Module & { architecture: string };
  const given = task === "imageClassifier" ? labels : task.endsWith("Classifier") ? labels.length : undefined;
  return { family, model: builder(family.readConfig(config, name), given) };
}

const size = (shapes: Iterable<readonly number[]>) => [...shapes].reduce((total, shape) => total + elementCount(shape), 0);

describe.each(published.map((entry) => [entry.name, entry] as const))("%s", (_, entry) => {
  test.each(Object.entries(entry.models))("as %s", (className, { parameters, tensors, unused = {}, buffers = {} }) => {
    const { family, model } = build(className, entry);
    expect(model.architecture).toBe(className);
    const shapes = new Map(Array.from(model.namedParameters(), ([name, { shape }]) => [name, shape]));
    expect(size(shapes.values()) + size(Object.values(unused)) - size(Object.values(buffers))).toBe(parameters);
    const lines = Array.from(shapes, ([name, shape]) => `${name}:${shape.join()}`).sort();
    expect(createHash("sha256").update(lines.join("\n")).digest("hex")).toBe(tensors);
    expect(Object.keys(unused).filter((name) => !family.derived?.test(name) && !family.optional?.test(name))).toEqual([]);
  });
});

test("a model's parameters take no memory before they are read", () => {
  const before = process.memoryUsage().arrayBuffers;
  const models = published.flatMap((entry) => Object.keys(entry.models).map((className) => build(className, entry).model));
  expect(models).toHaveLength(published.flatMap(({ models }) => Object.keys(models)).length);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 24);
});

describe("what a file leaves out is what transformers takes for it", () => {
  const read = (name: string, changes: Record<string, unknown>) => {
    const config: Record<string, unknown> = { ...published.find((entry) => entry.name === name)!.config, ...changes };
    for (const key of Object.keys(changes)) if (changes[key] === undefined) delete config[key];
    return familyOf(config, name).readConfig(config, name) as Record<string, unknown>;
  };

  test.each([
    ["mistralai/Mistral-7B-v0.3", { sliding_window: undefined }, { sliding_window: 4096 }],
    ["mistralai/Mistral-7B-v0.3", { sliding_window: null }, { sliding_window: null }],
    ["meta-llama/Llama-2-7b-hf", { num_key_value_heads: null }, { num_key_value_heads: undefined, sliding_window: undefined }],
    ["Qwen/Qwen2-0.5B", { sliding_window: undefined }, { sliding_window: 4096 }],
    [
      "google/gemma-2-2b",
      { attn_logit_softcapping: undefined, final_logit_softcapping: null, rope_theta: undefined },
      { attn_logit_softcapping: 50, final_logit_softcapping: null, rope_theta: 1e4 },
    ],
    ["google/gemma-3-1b-pt", { rope_theta: undefined, rope_local_base_freq: undefined }, { rope_theta: 1e6, rope_local_base_freq: 1e4 }],
    ["allenai/OLMo-2-0425-1B", { rms_norm_eps: undefined }, { rms_norm_eps: 1e-5 }],
    ["microsoft/Phi-3-mini-4k-instruct", { rms_norm_eps: undefined }, { rms_norm_eps: 1e-5 }],
    ["google/mt5-small", { feed_forward_proj: undefined }, { gated: true, activation: "gelu_new" }],
    ["google-t5/t5-small", {}, { gated: false, activation: "relu" }],
  ])("%s %o", (name, changes, expected) => {
    expect(read(name, changes)).toMatchObject(expected);
  });

  test("the first name of longrope", () => {
    const name = "microsoft/Phi-3-mini-128k-instruct";
    const { rope_scaling } = published.find((entry) => entry.name === name)!.config as { rope_scaling: object };
    expect(read(name, { rope_scaling: { ...rope_scaling, type: "su" } })).toMatchObject({ rope_theta: 10000 });
  });
});
