import { z } from "zod";
import type { Example } from "../../data/index.ts";
import { show } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { SequenceClassifier } from "../../models/causal-lm.ts";
import { loadSequenceClassifier } from "../../models/load.ts";
import type { Device } from "../../runtime/index.ts";
import { meanAbsoluteError, meanSquaredError, pearsonCorrelation, rSquared, spearmanCorrelation } from "../metrics/index.ts";
import { sequenceRegression } from "../objectives/index.ts";
import { exampleRows, textOf } from "./example-rows.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, loadText } from "./loaded-text.ts";
import { readTexts } from "./prediction-files.ts";
import { defaultTemplate, type SequenceEncoderOptions, truncationNote } from "./sequence-encoder.ts";
import { SequenceOutputs } from "./sequence-outputs.ts";
import { batchesOf, recording, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("regression"),
  template: z.string(),
  maxLength: z.int().positive(),
  mean: z.number(),
  deviation: z.number().positive(),
  /** Where training was told one. */
  textColumn: z.string().optional(),
});
export type RegressionRecord = z.output<typeof record>;

export interface NumberExample extends Example {
  /** The number that belongs to the text. */
  target: number;
}

const like = '{"text": "…", "label": 3.5}';

/** A number for each text. */
export const regression: TaskKind<NumberExample, RegressionRecord, LoadedText<SequenceClassifier>> = {
  name: "regression",
  summary: "a number for each text",
  data: like,
  needs: "sequenceClassifier",
  options: ["textColumn", "labelColumn", "template"],
  record,
  recognises: () => false, // numbers may be classes
  read: (path, { textColumn = "text", labelColumn = "label" }) =>
    exampleRows(path, like, (value, place) => {
      const read = textOf(value, textColumn);
      if ("wrong" in read) return read.wrong;
      const label = value[labelColumn];
      const target = typeof label === "string" && label.trim() !== "" ? Number(label) : label;
      return typeof target === "number" && Number.isFinite(target)
        ? { ...read, target, ...place }
        : `"${labelColumn}" is ${show(label)}, which is no number`;
    }),
  plan({ family, train, options: { template = defaultTemplate(family), maxLength = defaultLength, textColumn } }) {
    const { mean, deviation } = spread(train.map(({ target }) => target));
    return { task: "regression", template, maxLength, mean, deviation, textColumn };
  },
  load: (directory) => loadText(directory, (path) => loadSequenceClassifier(path, ["LABEL_0"])),
  task: ({ model, tokenizer }, data, record, device) =>
    recording(regressionTask(model, tokenizer, device, { ...data, ...record }), { textColumn: record.textColumn }),
  saved: () => ({ labels: ["LABEL_0"], problemType: "regression" }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
  sample: ({ text, target }) => ({ input: text, shown: text, expected: String(target) }),
  predictor({ model, tokenizer }, record, device) {
    const outputs = new SequenceOutputs(tokenizer, device, sequenceRegression(model), record);
    return {
      read: (file) => readTexts(file, () => record.textColumn ?? "text"),
      async predict(texts: readonly string[]) {
        const { rows, truncation } = await outputs.predict(texts, 1);
        const values = rows.map(([z]) => z! * record.deviation + record.mean);
        return {
          results: values.map((value) => ({ shown: value.toFixed(4).padStart(10), fields: { value } })),
          notes: truncationNote("given", truncation),
        };
      },
      dispose: () => outputs.dispose(),
    };
  },
};

/** Where a model is only measured, its outputs are taken as they are. */
function spread(values: readonly number[]): { mean: number; deviation: number } {
  if (values.length === 0) return { mean: 0, deviation: 1 };
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
  return { mean, deviation: deviation > 0 ? deviation : 1 };
}

export interface RegressionOptions extends SequenceEncoderOptions {
  /** The model's output times `deviation` plus `mean` is the number: outputs are learnt on the scale of fresh weights. */
  mean: number;
  deviation: number;
}

/** A number for each text. The model's head has one row. */
export function regressionTask(
  model: SequenceClassifier,
  tokenizer: Tokenizer,
  device: Device,
  options: RegressionOptions & TaskData<NumberExample>,
): Task {
  const { train, heldOut, batchSize, seed, template, maxLength, mean, deviation } = options;
  const objective = sequenceRegression(model);
  const outputs = new SequenceOutputs(tokenizer, device, objective, options);
  const encode = (examples: readonly NumberExample[]) =>
    outputs.encode(examples, ({ target }) => [(target - mean) / deviation], options.cache);
  const [trainSet, heldSet] = [encode(train), encode(heldOut)];
  const actual = heldOut.map(({ target }) => target);
  return {
    name: "regression",
    model,
    objective,
    train: batchesOf(trainSet.examples, (examples) => outputs.batches(examples, { batchSize, seed })),
    notes: [
      `${train.length} training and ${heldOut.length} held-out texts; numbers of mean ${mean.toPrecision(4)} and deviation ${deviation.toPrecision(4)} in training`,
      ...truncationNote("training", trainSet.truncation),
      ...truncationNote("held-out", heldSet.truncation),
    ],
    heldOutNotes: truncationNote("held-out", heldSet.truncation),
    metric: "mse",
    higherIsBetter: false,
    length: maxLength,
    record: { task: "regression", template, maxLength, mean, deviation } satisfies RegressionRecord,
    async evaluate(onProgress) {
      const { rows, loss } = await outputs.of(heldSet.examples, batchSize, onProgress);
      const values = rows.map(([z]) => z! * deviation + mean);
      return {
        loss,
        mse: meanSquaredError(values, actual),
        mae: meanAbsoluteError(values, actual),
        r2: rSquared(values, actual),
        pearson: pearsonCorrelation(values, actual),
        spearman: spearmanCorrelation(values, actual),
      };
    },
    dispose: () => outputs.dispose(),
  };
}
