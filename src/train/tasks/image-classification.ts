import { z } from "zod";
import { holdsImages, type ImageExample, readImageExamples } from "../../data/image-examples.ts";
import { paddedBatches } from "../../data/index.ts";
import type { BatchRows } from "../../data/padded-batches.ts";
import { EspalierError } from "../../graph/index.ts";
import { decodeImage, type ImageProcessor, imageProcessorFromDirectory } from "../../inputs/image/index.ts";
import type { ImageClassifier } from "../../models/image-model.ts";
import { loadImageClassifier } from "../../models/load-image.ts";
import { type Device, hostTensor } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { accuracy, macroF1, majorityClass, topKAccuracy } from "../metrics/index.ts";
import { imageClassification as objectiveOf } from "../objectives/index.ts";
import type { Loaded, TaskKind } from "./kind.ts";
import { planLabels, refuseUnknown } from "./labels.ts";
import { largestOf, rowsOfLogits, softmaxOf } from "./rows-of-logits.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({ task: z.literal("image-classification"), labels: z.array(z.string()).min(2).readonly() });
export type ImageClassificationRecord = z.output<typeof record>;

interface LoadedImages extends Loaded {
  readonly model: ImageClassifier;
  readonly processor: ImageProcessor;
}

/** One of several labels for each image. */
export const imageClassification: TaskKind<ImageExample, ImageClassificationRecord, LoadedImages> = {
  name: "image-classification",
  summary: "one label for each image",
  data: 'a directory with one of images for each label, or {"image": "cat.jpg", "label": "cat"}',
  needs: "imageClassifier",
  options: ["imageColumn", "labelColumn"],
  record,
  recognises: ({ images, record, options: { imageColumn = "image" } }) => images || typeof record?.[imageColumn] === "string",
  read(path, { imageColumn, labelColumn }) {
    const examples = readImageExamples(path, {
      ...(imageColumn !== undefined && { imageColumn }),
      ...(labelColumn !== undefined && { labelColumn }),
    });
    if (examples.every(({ label }) => label !== undefined)) return examples;
    throw new EspalierError("no-labels", `${path} has no labels: put the images of each label into a directory of their own.`);
  },
  plan: (context) => ({ task: "image-classification", labels: planLabels(context) }),
  async load(directory, { labels }) {
    return { model: loadImageClassifier(directory, labels), processor: imageProcessorFromDirectory(directory) };
  },
  task: ({ model, processor }, data, { labels }, device) => imageClassificationTask(model, processor, device, { ...data, labels }),
  saved: ({ labels }) => ({ labels }),
  sample: ({ path, label }) => ({ input: path, shown: path, ...(label !== undefined && { expected: label }) }),
  predictor({ model, processor }, { labels }, device) {
    const evaluator = new Evaluator(device, objectiveOf(model));
    return {
      async read(path) {
        const images = holdsImages(path) ? readImageExamples(path).map((example) => example.path) : [path];
        return images.map((file) => ({ input: file, file }));
      },
      async predict(files: readonly string[]) {
        const examples = files.map((path) => ({ path, length: 1, description: path }));
        const source = imageBatches(examples, processor, labels, { batchSize: Math.min(8, files.length), shuffle: false });
        const { logits } = await rowsOfLogits(evaluator, source, files.length);
        const results = logits.map((row) => {
          const probabilities = softmaxOf(row);
          const label = labels[largestOf(row)]!;
          return {
            shown: `${label.padEnd(12)} ${(100 * Math.max(...probabilities)).toFixed(1).padStart(5)} %`,
            fields: { label, probabilities: Object.fromEntries(labels.map((name, i) => [name, probabilities[i]])) },
          };
        });
        return { results, notes: [] };
      },
      dispose: () => evaluator.dispose(),
    };
  },
};

interface ImageFile {
  path: string;
  label?: string;
  length: number;
  description: string;
}

/** Images are decoded when their batch is asked for. */
function imageBatches(
  examples: readonly ImageFile[],
  processor: ImageProcessor,
  labels: readonly string[],
  options: { batchSize: number; seed?: number; shuffle?: boolean },
) {
  const feeds = async ({ examples, batchSize }: BatchRows<ImageFile>) => {
    const pixels = processor.process(await Promise.all(examples.map(({ path }) => decodeImage(path))));
    const [, ...size] = pixels.shape as [number, number, number, number];
    const all = new Float32Array(batchSize * size.reduce((a, b) => a * b, 1));
    all.set(pixels.data as Float32Array);
    const targets = Array.from({ length: batchSize }, (_, i) =>
      examples[i]?.label === undefined ? -100 : labels.indexOf(examples[i].label),
    );
    return {
      pixels: hostTensor("float32", [batchSize, ...size], all),
      labels: hostTensor("int64", [batchSize], BigInt64Array.from(targets, BigInt)),
    };
  };
  return paddedBatches(examples, { ...options, buckets: [1] }, feeds);
}

export interface ImageClassificationOptions extends TaskData<ImageExample> {
  labels: readonly string[];
}

/** One label per image. */
export function imageClassificationTask(
  model: ImageClassifier,
  processor: ImageProcessor,
  device: Device,
  { labels, train, heldOut, batchSize, seed }: ImageClassificationOptions,
): Task {
  refuseUnknown(labels, heldOut);
  const prepare = (examples: readonly ImageExample[]) =>
    examples.map(({ path, label }): ImageFile => ({ path, ...(label !== undefined && { label }), length: 1, description: path }));
  const [trainSet, heldSet] = [prepare(train), prepare(heldOut)];
  const indices = (examples: readonly ImageExample[]) => examples.map(({ label }) => labels.indexOf(label!));
  const actual = indices(heldOut);
  const common = train.length > 0 ? majorityClass(indices(train)) : undefined;
  const objective = objectiveOf(model);
  const evaluator = new Evaluator(device, objective);
  return {
    name: "image-classification",
    model,
    objective,
    train: batchesOf(trainSet, (examples) => imageBatches(examples, processor, labels, { batchSize, seed })),
    notes: [`${train.length} training and ${heldOut.length} held-out images of ${labels.length} labels: ${labels.join(", ")}`],
    metric: "accuracy",
    higherIsBetter: true,
    ...(common && {
      majority: { label: labels[common.label]!, accuracy: actual.filter((l) => l === common.label).length / actual.length },
    }),
    record: { task: "image-classification", labels } satisfies ImageClassificationRecord,
    async evaluate(onProgress) {
      const source = imageBatches(heldSet, processor, labels, { batchSize, shuffle: false });
      const { logits, loss } = await rowsOfLogits(evaluator, source, heldSet.length, onProgress);
      const predicted = logits.map(largestOf);
      const five: Record<string, number> = labels.length > 5 ? { top5: topKAccuracy(logits, actual, 5) } : {};
      return { loss, accuracy: accuracy(predicted, actual), ...five, macroF1: macroF1(predicted, actual) };
    },
    dispose: () => evaluator.dispose(),
  };
}
