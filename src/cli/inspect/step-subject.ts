import { openCheckpoint } from "../../checkpoints/index.ts";
import { EspalierError, type TensorType } from "../../graph/index.ts";
import type { Family, Task as ModelTask } from "../../models/family.ts";
import {
  familyOf,
  loadCausalLM,
  loadImageClassifier,
  loadMaskedLM,
  loadSeq2SeqLM,
  loadSequenceClassifier,
  loadTokenClassifier,
  taskNames,
} from "../../models/index.ts";
import { type PatchConfig, patchGrid } from "../../models/patch-embedding.ts";
import type { Module } from "../../nn/index.ts";
import {
  causalLanguageModel,
  imageClassification,
  maskedLanguageModel,
  type Objective,
  sequenceClassification,
  sequenceToSequence,
  tokenClassification,
} from "../../train/objectives/index.ts";
import { taskKind } from "../../train/tasks/table.ts";

/** A model and what a training step on it is fed, without any data. */
export interface StepSubject {
  model: Module & { readonly config: Readonly<Record<string, unknown>>; readonly contextLength?: number };
  objective: Objective;
  types: Readonly<Record<string, TensorType>>;
  /** Tokens, or images, of a batch. */
  size: { count: number; unit: "tokens" | "images" };
}

interface Shape {
  batchSize: number;
  maxLength: number;
}

const ids = (...shape: number[]): TensorType => ({ dtype: "int64", shape });

type Opens = (directory: string, config: Readonly<Record<string, unknown>>, shape: Shape) => StepSubject;

const text = (
  model: StepSubject["model"],
  objective: Objective,
  types: StepSubject["types"],
  { batchSize, maxLength }: Shape,
): StepSubject => ({
  model,
  objective,
  types,
  size: { count: batchSize * maxLength, unit: "tokens" },
});

/** In the order in which a model's task is chosen where nobody names one. */
const subjects: Readonly<Partial<Record<ModelTask, Opens>>> = {
  causalLM: (directory, _config, shape) => {
    const model = loadCausalLM(directory);
    const type = ids(shape.batchSize, shape.maxLength);
    return text(model as never, causalLanguageModel(model), { ids: type, targets: type }, shape);
  },
  seq2seq: (directory, _config, shape) => {
    const model = loadSeq2SeqLM(directory);
    const type = ids(shape.batchSize, shape.maxLength);
    return text(model as never, sequenceToSequence(model), { ids: type, attentionMask: type, answer: type, targets: type }, shape);
  },
  sequenceClassifier: (directory, config, shape) => {
    const model = loadSequenceClassifier(directory, labelsOf(config) ?? ["0", "1"]);
    const rows = ids(shape.batchSize);
    const types = { ids: ids(shape.batchSize, shape.maxLength), lengths: rows, labels: rows };
    return text(model as never, sequenceClassification(model), types, shape);
  },
  tokenClassifier: (directory, config, shape) => {
    const model = loadTokenClassifier(directory, labelsOf(config) ?? ["0", "1"]);
    const type = ids(shape.batchSize, shape.maxLength);
    return text(model as never, tokenClassification(model), { ids: type, attentionMask: type, targets: type }, shape);
  },
  maskedLM: (directory, _config, shape) => {
    const model = loadMaskedLM(directory);
    const type = ids(shape.batchSize, shape.maxLength);
    return text(model as never, maskedLanguageModel(model), { ids: type, attentionMask: type, targets: type }, shape);
  },
  imageClassifier: (directory, config, { batchSize }) => {
    const labels = labelsOf(config);
    const model = loadImageClassifier(directory, labels ? undefined : ["0", "1"]);
    const patches = model.config as unknown as PatchConfig;
    const [rows, columns] = patchGrid(patches);
    const pixels = {
      dtype: "float32",
      shape: [batchSize, patches.num_channels, rows * patches.patch_size, columns * patches.patch_size],
    } as const;
    return {
      model: model as never,
      objective: imageClassification(model),
      types: { pixels, labels: ids(batchSize) },
      size: { count: batchSize, unit: "images" },
    };
  },
};

const labelsOf = ({ id2label }: Readonly<Record<string, unknown>>): string[] | undefined =>
  id2label && typeof id2label === "object" ? Object.values(id2label as Record<string, string>) : undefined;

/** Opens the model at `directory` for a task (by default the first that it has) and says what its training step reads. */
export function openSubject(directory: string, task: string | undefined, shape: Shape): StepSubject {
  const { config, configFile } = openCheckpoint(directory);
  const family = familyOf(config, configFile);
  const needs = task === undefined ? firstOf(family) : taskKind(task)?.needs;
  const opens = needs && subjects[needs];
  if (!opens)
    throw new EspalierError(
      "unsupported-model",
      `inspect knows the training steps of ${Object.keys(subjects)
        .map((name) => taskNames[name as ModelTask])
        .join(", ")}; ${task === undefined ? `${directory} (${family.name}) is none of these` : `${task} is none of these`}.`,
    );
  return opens(directory, config as Readonly<Record<string, unknown>>, shape);
}

const firstOf = (family: Family): ModelTask | undefined =>
  (Object.keys(subjects) as ModelTask[]).find((task) => family[task] !== undefined);
