/**
 * Published checkpoints load by name: from the configuration as each was published, Espalier builds a model with the tensors that transformers
 * builds (`tests/fixtures/make_published.py`), name for name and shape for shape. The numbers of parameters are the published ones.
 */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { readJsonFile } from "../checkpoints/index.ts";
import { elementCount } from "../graph/index.ts";
import type { Module } from "../nn/index.ts";
import { builderOf, familyOf } from "./families.ts";
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
