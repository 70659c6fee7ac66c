/**
 * What the ways to keep a base cost in quality, on sapling and the mails of the main job: bits per byte of held-out mail before any training,
 * and loss and accuracy on held-out mail after a short LoRA run with the same seeds and batches.
 */
import { prepareSpamData } from "../examples/spam/data.ts";
import { readExamples } from "../src/data/records.ts";
import { tokenizerFromDirectory } from "../src/inputs/text/tokenizer-directory.ts";
import { lora } from "../src/methods/index.ts";
import {
  type BaseDtype,
  baseDtypes,
  DecoderForSequenceClassification,
  loadCausalLM,
  loadSequenceClassifier,
  setBaseDtype,
} from "../src/models/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { applyWeights } from "../src/train/method.ts";
import { adamW } from "../src/train/optimizers/index.ts";
import { schedule } from "../src/train/schedules.ts";
import { classificationTask, initialiseHeadFromLabels } from "../src/train/tasks/classification.ts";
import { languageModelingTask } from "../src/train/tasks/language-modeling.ts";
import { train } from "../src/train/trainer.ts";
import { round } from "./machine.ts";

const directory = "models/sapling";
const labels = ["ham", "spam"];

export interface QualityOptions {
  smoke: boolean;
  /** Steps of the LoRA run, of 16 mails each. */
  steps: number;
}

/** sapling is published in bfloat16, and float16 rounds 320 of its 5.7 million values by 3e-8 at most: the three float types are one. */
const compared = baseDtypes.filter((dtype) => dtype !== "bf16" && dtype !== "f16");

export async function benchBaseDtypeQuality(options: QualityOptions): Promise<Record<string, unknown>> {
  const paths = await prepareSpamData();
  const [all, held] = [readExamples(paths.train), readExamples(paths.heldOut)];
  const data = { train: all, heldOut: options.smoke ? held.slice(0, 32) : held.filter((_, i) => i % 2 === 0) };
  const figures: Record<string, unknown> = {};
  for (const dtype of compared) {
    const bitsPerByte = await untrained(dtype, data.heldOut.slice(0, options.smoke ? 4 : 300));
    figures[dtype] = { bitsPerByte, ...(await trained(dtype, data, options.smoke ? 2 : options.steps)) };
    process.stderr.write(`${dtype} done\n`);
  }
  return { model: directory, steps: options.smoke ? 2 : options.steps, ...figures };
}

type Examples = ReturnType<typeof readExamples>;

async function untrained(dtype: BaseDtype, heldOut: Examples): Promise<number> {
  const model = loadCausalLM(directory).freeze();
  setBaseDtype(model, dtype);
  const device = cpu();
  const options = { train: heldOut.slice(0, 1), heldOut, batchSize: 8, sequenceLength: 256, seed: 0 };
  const task = languageModelingTask(model, await tokenizerFromDirectory(directory), device, options);
  const { bitsPerByte } = await task.evaluate();
  await device.dispose();
  return round(bitsPerByte!, 4);
}

/** The main job's settings, with fewer steps. */
async function trained(dtype: BaseDtype, data: { train: Examples; heldOut: Examples }, steps: number) {
  const tokenizer = await tokenizerFromDirectory(directory);
  const device = cpu();
  const model = loadSequenceClassifier(directory, labels);
  setBaseDtype(model, dtype);
  if (model instanceof DecoderForSequenceClassification) initialiseHeadFromLabels(model, tokenizer, labels, device);
  const template = "{text}\n\nThis e-mail is";
  const task = classificationTask(model, tokenizer, device, { ...data, labels, template, maxLength: 128, batchSize: 16, seed: 0 });
  const methods = [lora({ rank: 8, alpha: 16, targets: "all-linear" })];
  applyWeights(model, methods);
  const losses: number[] = [];
  await train({
    model,
    objective: task.objective,
    data: task.train,
    device,
    methods,
    optimizer: adamW({ learningRate: 1.5e-3 }),
    schedule: schedule("cosine", { warmup: 0.05 }),
    steps,
    onStep: ({ loss }) => losses.push(loss),
  });
  const { loss, accuracy, rocAuc } = await task.evaluate();
  await device.dispose();
  const last = losses.slice(-20);
  return {
    trainingLossOfLast20: round(last.reduce((a, b) => a + b, 0) / last.length, 4),
    heldOutLoss: round(loss!, 4),
    accuracy: round(accuracy!, 4),
    rocAuc: round(rocAuc!, 4),
  };
}
