import { z } from "zod";
import { classificationBatch, classificationBatches, type Example, type Truncation } from "../../data/index.ts";
import { openExamples, readExamples } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { SequenceClassifier } from "../../models/causal-lm.ts";
import { DecoderForSequenceClassification } from "../../models/decoder-family.ts";
import { loadSequenceClassifier } from "../../models/load.ts";
import { floats, type Linear } from "../../nn/index.ts";
import type { Device } from "../../runtime/index.ts";
import { accuracy, macroF1, majorityClass, matthewsCorrelation, precisionRecallF1, rocAuc } from "../metrics/index.ts";
import { distilledClassification, sequenceClassification } from "../objectives/index.ts";
import { Classifier, type ClassifierOptions } from "./classifier.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { planLabels, refuseUnknown } from "./labels.ts";
import { type LoadedText, loadText, padIdOf, trainingBuckets } from "./loaded-text.ts";
import { readTexts } from "./prediction-files.ts";
import { largestOf } from "./rows-of-logits.ts";
import { defaultTemplate, SequenceEncoder, truncationNote } from "./sequence-encoder.ts";
import { streamedTexts } from "./streaming.ts";
import { batchesOf, recording, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("classification"),
  labels: z.array(z.string()).min(2).readonly(),
  template: z.string(),
  maxLength: z.int().positive(),
  positive: z.string().optional(),
  /** Where training was told one. */
  textColumn: z.string().optional(),
});
export type ClassificationRecord = z.output<typeof record>;

/** One of several labels for each text. */
export const classification: TaskKind<Example, ClassificationRecord, LoadedText<SequenceClassifier>> = {
  name: "classification",
  summary: "one label for each text",
  data: '{"text": "…", "label": "…"}',
  needs: "sequenceClassifier",
  options: ["textColumn", "labelColumn", "template", "positive", "buckets", "maxShapes", "teacher", "teacherShare", "temperature"],
  record,
  recognises: ({ record, options: { labelColumn = "label" } }) => isLabel(record?.[labelColumn]),
  read(path, columns) {
    const examples = readExamples(path, columns);
    if (examples[0]!.label === undefined) throw withoutLabels(path);
    return examples;
  },
  plan(context) {
    const { family, options } = context;
    const labels = planLabels(context);
    const { template = defaultTemplate(family), maxLength = defaultLength, textColumn } = options;
    const positive = options.positive ?? (labels.length === 2 ? rarest(context.labels) : undefined);
    return { task: "classification", labels, template, maxLength, textColumn, ...(positive !== undefined && { positive }) };
  },
  load: (directory, { labels }) => loadText(directory, (path) => loadSequenceClassifier(path, labels)),
  begin({ model, tokenizer }, { labels }, device) {
    // A head that was trained already is better than a guess.
    if (model.headIsFresh && model instanceof DecoderForSequenceClassification) initialiseHeadFromLabels(model, tokenizer, labels, device);
  },
  task: ({ model, tokenizer }, data, record, device) =>
    recording(classificationTask(model, tokenizer, device, { ...data, ...record }), { textColumn: record.textColumn }),
  streaming: {
    async open(path, options) {
      const records = await openExamples(path, options);
      if (records.labels.size > 0) return records;
      records.close();
      throw withoutLabels(path);
    },
    async train({ tokenizer }, data, { labels, template, maxLength }) {
      const encoder = new SequenceEncoder(tokenizer, { template, maxLength });
      const padId = padIdOf(tokenizer);
      const { train, notes } = streamedTexts(data, {
        maxLength,
        encode: ({ text, label, file, line }) => ({
          ids: encoder.ids(text),
          label: labels.indexOf(label!),
          description: `${file}:${line}`,
        }),
        assemble: (examples, length) => classificationBatch(examples, { rows: data.batchSize, length, padId }),
      });
      const counts = labels.map((label) => data.labels.get(label) ?? 0);
      const texts = counts.reduce((a, b) => a + b, 0);
      const common = labels[largestOf(counts)]!;
      return {
        train,
        notes: [
          `${texts} training and ${data.heldOut.length} held-out texts; labels ${labels.map((l, i) => `${l} ${counts[i]}`).join(", ")} in training`,
          ...notes,
        ],
        majority: { label: common, accuracy: data.heldOut.filter(({ label }) => label === common).length / data.heldOut.length },
      };
    },
  },
  distilled(student, { model }, options) {
    if (model.headIsFresh)
      throw new EspalierError(
        "bad-option",
        "The teacher has no classification head of its own: give one that was trained for these labels.",
      );
    return distilledClassification(student.model, model, options);
  },
  saved: ({ labels }) => ({ labels }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
  sample: ({ text, label }) => ({ input: text, shown: text, ...(label !== undefined && { expected: label }) }),
  predictor({ model, tokenizer }, record, device) {
    const classifier = new Classifier(model, tokenizer, device, record);
    return {
      read: (file) => readTexts(file, () => record.textColumn ?? "text"),
      async predict(texts: readonly string[]) {
        const { predictions, truncation } = await classifier.predict(texts);
        return {
          results: predictions.map(({ label, probabilities }) => ({
            shown: `${label.padEnd(12)} ${(100 * Math.max(...probabilities)).toFixed(1).padStart(5)} %`,
            fields: { label, probabilities: Object.fromEntries(record.labels.map((name, i) => [name, probabilities[i]])) },
          })),
          notes: truncationNote("given", truncation),
        };
      },
      dispose: () => classifier.dispose(),
    };
  },
};

const withoutLabels = (path: string) =>
  new EspalierError("no-labels", `${path} has no labels; classification needs a label for every text (--label-column names the column).`);

const rarest = (counts: ReadonlyMap<string, number> | undefined): string | undefined =>
  counts && [...counts].sort(([a, n], [b, m]) => n - m || (a < b ? -1 : 1))[0]?.[0];

const isLabel = (value: unknown): boolean => ["string", "number", "boolean"].includes(typeof value) && value !== "";

/**
 * Gives the head the output embedding of each label's first token, so that the untrained model answers as the language model would: the
 * zero-shot baseline, and where training starts from.
 */
export function initialiseHeadFromLabels(
  model: DecoderForSequenceClassification,
  tokenizer: Tokenizer,
  labels: readonly string[],
  device: Device,
): void {
  const { weight } = model.decoder.embedding;
  const width = weight.shape[1]!;
  const table = device.read(weight).data as Float32Array;
  const ids = labels.map((label) => tokenizer.encode(` ${label}`, { addSpecialTokens: false }));
  const distinct = new Set(ids.map(([first]) => first)).size === labels.length;
  const rows = new Float32Array(labels.length * width);
  for (const [row, tokens] of ids.entries()) {
    const used = distinct ? tokens.slice(0, 1) : tokens;
    for (const id of used) for (let i = 0; i < width; i++) rows[row * width + i]! += table[id * width + i]! / used.length;
  }
  (model.score as Linear).weight.storage = floats([labels.length, width], rows);
}

export interface ClassificationTaskOptions extends ClassifierOptions, TaskData {
  /** The label whose F1 and ROC AUC are stated, for two labels. Default: the rarer one in training. */
  positive?: string | undefined;
}

/** One label per text. The model's head must have one row per label, in the order of `labels`. */
export function classificationTask(
  model: SequenceClassifier,
  tokenizer: Tokenizer,
  device: Device,
  options: ClassificationTaskOptions,
): Task {
  const { labels, train, heldOut, batchSize, seed } = options;
  refuseUnknown(labels, heldOut);
  const encoder = new SequenceEncoder(tokenizer, options);
  const prepare = (examples: readonly Example[]) =>
    encoder.encode(
      examples.map((e) => ({ text: e.text, label: labels.indexOf(e.label!), description: `${e.file}:${e.line}` })),
      options.cache,
    );
  const [trainSet, heldSet] = [prepare(train), prepare(heldOut)];
  const actual = heldSet.examples.map((e) => e.label!);
  const known = train.length > 0 ? trainSet : heldSet;
  const counts = labels.map((_, i) => known.examples.filter((e) => e.label === i).length);
  const positive = options.positive ?? (labels.length === 2 ? labels[counts[0]! <= counts[1]! ? 0 : 1]! : undefined);
  if (positive !== undefined && !labels.includes(positive))
    throw new EspalierError("bad-option", `The positive label "${positive}" does not occur in the data (${labels.join(", ")}).`);
  const { buckets, notes } = trainingBuckets(
    trainSet.examples.map(({ ids }) => ids.length),
    options.maxLength,
    options,
  );
  const classifier = new Classifier(model, tokenizer, device, options);
  const common = train.length === 0 ? undefined : majorityClass(trainSet.examples.map((e) => e.label!));
  const record: ClassificationRecord = {
    task: "classification",
    labels,
    template: options.template,
    maxLength: options.maxLength,
    ...(positive !== undefined && { positive }),
  };
  return {
    name: "classification",
    model,
    objective: sequenceClassification(model),
    train: batchesOf(trainSet.examples, (examples) =>
      classificationBatches(examples, { batchSize, padId: padIdOf(tokenizer), buckets, seed }),
    ),
    notes: [
      `${train.length} training and ${heldOut.length} held-out texts; labels ${labels.map((l, i) => `${l} ${counts[i]}`).join(", ")} in training`,
      ...[
        ["training", trainSet.truncation],
        ["held-out", heldSet.truncation],
      ].flatMap(([name, t]) => truncationNote(name as string, t as Truncation)),
      ...notes,
    ],
    heldOutNotes: truncationNote("held-out", heldSet.truncation),
    metric: "accuracy",
    higherIsBetter: true,
    length: options.maxLength,
    ...(common && {
      majority: { label: labels[common.label]!, accuracy: actual.filter((l) => l === common.label).length / actual.length },
    }),
    record,
    async evaluate(onProgress) {
      const { logits, loss } = await classifier.logits(heldSet.examples, batchSize, onProgress);
      const predicted = logits.map(largestOf);
      const plain = { loss, accuracy: accuracy(predicted, actual), matthews: matthewsCorrelation(predicted, actual) };
      if (positive === undefined) return { ...plain, macroF1: macroF1(predicted, actual) };
      const p = labels.indexOf(positive);
      const margin = logits.map((row) => row[p]! - row[1 - p]!);
      const { precision, recall, f1 } = precisionRecallF1(predicted, actual, p);
      return {
        ...plain,
        f1,
        precision,
        recall,
        rocAuc: rocAuc(
          margin,
          actual.map((l) => l === p),
        ),
      };
    },
    dispose: () => classifier.dispose(),
  };
}
