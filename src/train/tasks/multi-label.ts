import { z } from "zod";
import type { Example } from "../../data/index.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { SequenceClassifier } from "../../models/causal-lm.ts";
import { namedLabels } from "../../models/family-checkpoint.ts";
import { loadSequenceClassifier } from "../../models/load.ts";
import type { Device } from "../../runtime/index.ts";
import { ratios } from "../metrics/index.ts";
import { multiLabelClassification as objectiveOf } from "../objectives/index.ts";
import { exampleRows, listOf, textOf } from "./example-rows.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, loadText } from "./loaded-text.ts";
import { readTexts } from "./prediction-files.ts";
import { defaultTemplate, type SequenceEncoderOptions, truncationNote } from "./sequence-encoder.ts";
import { SequenceOutputs } from "./sequence-outputs.ts";
import { batchesOf, recording, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("multi-label"),
  labels: z.array(z.string()).min(1).readonly(),
  template: z.string(),
  maxLength: z.int().positive(),
  /** Where training was told one. */
  textColumn: z.string().optional(),
});
export type MultiLabelRecord = z.output<typeof record>;

export interface ManyLabelsExample extends Example {
  /** Those that hold; perhaps none. */
  target: readonly string[];
}

const like = '{"text": "…", "labels": ["sport", "local"]}';

/** Any number of labels for each text. */
export const multiLabel: TaskKind<ManyLabelsExample, MultiLabelRecord, LoadedText<SequenceClassifier>> = {
  name: "multi-label",
  summary: "any number of labels for each text",
  data: like,
  needs: "sequenceClassifier",
  options: ["textColumn", "labelColumn", "template"],
  record,
  recognises: ({ record, options: { textColumn = "text", labelColumn = "labels" } }) =>
    typeof record?.[textColumn] === "string" && listOf(record, labelColumn) !== undefined,
  read: (path, { textColumn = "text", labelColumn = "labels" }) =>
    exampleRows(path, like, (value, place) => {
      const [read, labels] = [textOf(value, textColumn), listOf(value, labelColumn)];
      if ("wrong" in read) return read.wrong;
      return labels?.every((label) => typeof label === "string" && label !== "")
        ? { ...read, target: labels as string[], ...place }
        : `has no list of labels "${labelColumn}"`;
    }),
  plan({
    directory,
    config,
    family,
    train,
    heldOut,
    options: { template = defaultTemplate(family), maxLength = defaultLength, textColumn },
  }) {
    const labels = train.length > 0 ? [...new Set(train.flatMap(({ target }) => target))].sort() : namedLabels(config);
    if (!labels)
      throw new EspalierError("no-record", `${directory} does not say how its labels are called. Train it first, or give an --adapter.`);
    if (labels.length === 0)
      throw new EspalierError("no-targets", "No text of the training data has a label, so there is nothing to learn.");
    refuseUnknown(labels, heldOut);
    return { task: "multi-label", labels, template, maxLength, textColumn };
  },
  load: (directory, { labels }) => loadText(directory, (path) => loadSequenceClassifier(path, labels)),
  task: ({ model, tokenizer }, data, record, device) =>
    recording(multiLabelTask(model, tokenizer, device, { ...data, ...record }), { textColumn: record.textColumn }),
  saved: ({ labels }) => ({ labels, problemType: "multi_label_classification" }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
  predictor({ model, tokenizer }, record, device) {
    const outputs = new SequenceOutputs(tokenizer, device, objectiveOf(model), record);
    return {
      read: (file) => readTexts(file, () => record.textColumn ?? "text"),
      async predict(texts: readonly string[]) {
        const { rows, truncation } = await outputs.predict(texts, record.labels.length);
        const results = rows.map((row) => {
          const labels = record.labels.filter((_, k) => row[k]! > 0);
          const probabilities = Object.fromEntries(record.labels.map((label, k) => [label, 1 / (1 + Math.exp(-row[k]!))]));
          return { shown: labels.join(", ") || "(none)", fields: { labels, probabilities } };
        });
        return { results, notes: truncationNote("given", truncation) };
      },
      dispose: () => outputs.dispose(),
    };
  },
};

function refuseUnknown(labels: readonly string[], examples: readonly ManyLabelsExample[]): void {
  for (const { target, file, line } of examples) {
    const unknown = target.find((label) => !labels.includes(label));
    if (unknown === undefined) continue;
    throw new EspalierError(
      "unseen-label",
      `${file} line ${line}: the model does not know the label "${unknown}"; it knows ${labels.join(", ")}.`,
    );
  }
}

export interface MultiLabelOptions extends SequenceEncoderOptions, TaskData<ManyLabelsExample> {
  labels: readonly string[];
}

/** Any number of labels per text, each told by itself: it holds where its logit is above 0. */
export function multiLabelTask(model: SequenceClassifier, tokenizer: Tokenizer, device: Device, options: MultiLabelOptions): Task {
  const { labels, train, heldOut, batchSize, seed, template, maxLength } = options;
  refuseUnknown(labels, heldOut);
  const objective = objectiveOf(model);
  const outputs = new SequenceOutputs(tokenizer, device, objective, options);
  const encode = (examples: readonly ManyLabelsExample[]) =>
    outputs.encode(examples, ({ target }) => labels.map((label) => (target.includes(label) ? 1 : 0)), options.cache);
  const [trainSet, heldSet] = [encode(train), encode(heldOut)];
  const heldOutNotes = truncationNote("held-out", heldSet.truncation);
  const counts = labels.map((label) => `${label} ${train.filter(({ target }) => target.includes(label)).length}`);
  return {
    name: "multi-label",
    model,
    objective,
    train: batchesOf(trainSet.examples, (examples) => outputs.batches(examples, { batchSize, seed })),
    notes: [
      `${train.length} training and ${heldOut.length} held-out texts; labels ${counts.join(", ")} in training`,
      ...truncationNote("training", trainSet.truncation),
      ...heldOutNotes,
    ],
    heldOutNotes,
    metric: "f1",
    higherIsBetter: true,
    length: maxLength,
    record: { task: "multi-label", labels, template, maxLength } satisfies MultiLabelRecord,
    async evaluate(onProgress) {
      const { rows, loss } = await outputs.of(heldSet.examples, batchSize, onProgress);
      const called = rows.map((row) => Array.from(row, (z) => z > 0));
      const actual = heldSet.examples.map(({ values }) => values.map((value) => value === 1));
      const count = (k: number) => ({
        hits: called.filter((row, i) => row[k] && actual[i]![k]).length,
        called: called.filter((row) => row[k]).length,
        present: actual.filter((row) => row[k]).length,
      });
      const each = labels.map((_, k) => count(k));
      const total = (key: "hits" | "called" | "present") => each.reduce((n, counts) => n + counts[key], 0);
      const { precision, recall, f1 } = ratios(total("hits"), total("called"), total("present"));
      const macroF1 = each.reduce((sum, c) => sum + ratios(c.hits, c.called, c.present).f1, 0) / labels.length;
      const exact = called.filter((row, i) => row.every((is, k) => is === actual[i]![k])).length / called.length;
      return { loss, f1, precision, recall, macroF1, exactMatch: exact };
    },
    dispose: () => outputs.dispose(),
  };
}
