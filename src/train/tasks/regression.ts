import { z } from "zod";
import { type Example, paddedBatches, paddedRows } from "../../data/index.ts";
import type { BatchRows } from "../../data/padded-batches.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { SequenceClassifier } from "../../models/causal-lm.ts";
import { loadSequenceClassifier } from "../../models/load.ts";
import { type Device, hostTensor } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { meanAbsoluteError, meanSquaredError, pearsonCorrelation, rSquared, spearmanCorrelation } from "../metrics/index.ts";
import { sequenceRegression } from "../objectives/index.ts";
import { exampleRows, textOf } from "./example-rows.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, lengthBuckets, loadText, padIdOf } from "./loaded-text.ts";
import { readTexts } from "./prediction-files.ts";
import { rowsOfLogits } from "./rows-of-logits.ts";
import { defaultTemplate, SequenceEncoder, truncationNote } from "./sequence-encoder.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("regression"),
  template: z.string(),
  maxLength: z.int().positive(),
  mean: z.number(),
  deviation: z.number().positive(),
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
      const target = typeof label === "string" && label.trim() === "" ? Number.NaN : Number(label ?? Number.NaN);
      return Number.isFinite(target) && typeof label !== "boolean"
        ? { ...read, target, ...place }
        : `"${labelColumn}" is ${JSON.stringify(label) ?? "missing"}, which is no number`;
    }),
  plan({ family, train, options: { template = defaultTemplate(family), maxLength = defaultLength } }) {
    const { mean, deviation } = spread(train.map(({ target }) => target));
    return { task: "regression", template, maxLength, mean, deviation };
  },
  load: (directory) => loadText(directory, (path) => loadSequenceClassifier(path, ["LABEL_0"])),
  task: ({ model, tokenizer }, data, record, device) => regressionTask(model, tokenizer, device, { ...data, ...record }),
  saved: () => ({ labels: ["LABEL_0"], problemType: "regression" }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
  predictor({ model, tokenizer }, record, device) {
    const regressor = new Regressor(model, tokenizer, device, record);
    return {
      read: readTexts,
      async predict(texts: readonly string[]) {
        const { examples, truncation } = regressor.encode(texts.map((text, i) => ({ text, target: 0, file: `text ${i + 1}`, line: 1 })));
        const { values } = await regressor.values(examples, Math.min(16, examples.length));
        return {
          results: values.map((value) => ({ shown: value.toFixed(4).padStart(10), fields: { value } })),
          notes: truncationNote("given", truncation),
        };
      },
      dispose: () => regressor.dispose(),
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

interface EncodedNumber {
  ids: readonly number[];
  length: number;
  target: number;
  description: string;
}

export interface RegressionOptions {
  template: string;
  /** Tokens per text, template included. */
  maxLength: number;
  /** The model's output times `deviation` plus `mean` is the number: outputs are learnt on the scale of fresh weights. */
  mean: number;
  deviation: number;
}

/** A model that gives texts numbers. */
class Regressor {
  readonly #encoder: SequenceEncoder;
  readonly #evaluator: Evaluator;
  readonly #options: RegressionOptions;
  readonly #padId: number;

  constructor(model: SequenceClassifier, tokenizer: Tokenizer, device: Device, options: RegressionOptions) {
    this.#encoder = new SequenceEncoder(tokenizer, options);
    this.#evaluator = new Evaluator(device, sequenceRegression(model));
    this.#options = options;
    this.#padId = padIdOf(tokenizer);
  }

  encode(examples: readonly NumberExample[]) {
    const { examples: encoded, truncation } = this.#encoder.encode(
      examples.map(({ text, file, line }) => ({ text, description: `${file}:${line}` })),
    );
    return {
      examples: encoded.map(({ ids, description }, i) => ({ ids, length: ids.length, target: examples[i]!.target, description })),
      truncation,
    };
  }

  batches(examples: readonly EncodedNumber[], options: { batchSize: number; seed?: number; shuffle?: boolean }) {
    const { maxLength, mean, deviation } = this.#options;
    const feeds = ({ examples, batchSize, length }: BatchRows<EncodedNumber>) => ({
      ids: paddedRows(
        examples.map(({ ids }) => ids),
        batchSize,
        length,
        this.#padId,
      ),
      lengths: hostTensor(
        "int64",
        [batchSize],
        BigInt64Array.from({ length: batchSize }, (_, i) => BigInt(examples[i]?.length ?? 1)),
      ),
      values: hostTensor(
        "float32",
        [batchSize, 1],
        Float32Array.from({ length: batchSize }, (_, i) => (examples[i] ? (examples[i].target - mean) / deviation : 0)),
      ),
      weights: hostTensor(
        "float32",
        [batchSize],
        Float32Array.from({ length: batchSize }, (_, i) => (i < examples.length ? 1 : 0)),
      ),
    });
    return paddedBatches(examples, { ...options, buckets: lengthBuckets(maxLength) }, feeds);
  }

  async values(examples: readonly EncodedNumber[], batchSize: number, onProgress?: (done: number, of: number) => void) {
    const source = this.batches(examples, { batchSize, shuffle: false });
    const { logits, loss } = await rowsOfLogits(this.#evaluator, source, examples.length, onProgress);
    return { values: logits.map(([z]) => z! * this.#options.deviation + this.#options.mean), loss };
  }

  dispose(): Promise<void> {
    return this.#evaluator.dispose();
  }
}

/** A number for each text. The model's head has one row. */
export function regressionTask(
  model: SequenceClassifier,
  tokenizer: Tokenizer,
  device: Device,
  options: RegressionOptions & TaskData<NumberExample>,
): Task {
  const { train, heldOut, batchSize, seed, template, maxLength, mean, deviation } = options;
  const regressor = new Regressor(model, tokenizer, device, options);
  const [trainSet, heldSet] = [regressor.encode(train), regressor.encode(heldOut)];
  const actual = heldOut.map(({ target }) => target);
  return {
    name: "regression",
    model,
    objective: sequenceRegression(model),
    train: batchesOf(trainSet.examples, (examples) => regressor.batches(examples, { batchSize, seed })),
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
      const { values, loss } = await regressor.values(heldSet.examples, batchSize, onProgress);
      return {
        loss,
        mse: meanSquaredError(values, actual),
        mae: meanAbsoluteError(values, actual),
        r2: rSquared(values, actual),
        pearson: pearsonCorrelation(values, actual),
        spearman: spearmanCorrelation(values, actual),
      };
    },
    dispose: () => regressor.dispose(),
  };
}
