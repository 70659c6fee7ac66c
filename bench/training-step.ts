/**
 * A training step of {@link StepSpec} on a checkpoint, with random batches, AdamW and clipping; as a program (`training-step.ts <directory> <base dtype> <compute> <spec>`) a process
 * that answers in lines of JSON: its peak memory after two steps, then for each line of input the time of one more step.
 */
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { Random, type Traced } from "../src/graph/index.ts";
import { lora } from "../src/methods/index.ts";
import { type BaseDtype, loadCausalLM, loadImageClassifier, loadSequenceClassifier, setBaseDtype } from "../src/models/index.ts";
import type { Module } from "../src/nn/index.ts";
import type { ComputeDtype } from "../src/ops/index.ts";
import { type Device, type HostTensor, hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { applyWeights } from "../src/train/method.ts";
import { causalLanguageModel, imageClassification, type Objective, sequenceClassification } from "../src/train/objectives/index.ts";
import { adamW, oneGroup } from "../src/train/optimizers/index.ts";
import { stepFeeds, traceStep } from "../src/train/step.ts";
import { type StepSpec, shapes } from "./shapes.ts";

export interface OpenStep {
  model: Module;
  traced: Traced;
  /** The same step with another objective: for counting, never run. */
  traceWith(objective: Objective): Traced;
  /** Seconds from the model to the compiled step. */
  compileSeconds: number;
  /** Runs one step → its seconds. */
  step(): Promise<number>;
  dispose(): Promise<void>;
}

export async function openStep(directory: string, spec: StepSpec, baseDtype: BaseDtype = "f32", device: Device = cpu()): Promise<OpenStep> {
  const { model, objective, batch } = openModel(directory, spec);
  setBaseDtype(model, baseDtype);
  if (spec.lora) applyWeights(model, [lora({ rank: spec.lora.rank, targets: [...spec.lora.targets] })]);
  const optimizer = adamW({ learningRate: 1e-3 }).create(oneGroup(model.trainableParameters()));
  const traceWith = (objective: Objective) => traceStep(batch, { objective, optimizer, maxGradientNorm: 1, compute: device.compute });
  const began = performance.now();
  const traced = traceWith(objective);
  const program = await device.compile(traced);
  const compileSeconds = (performance.now() - began) / 1000;
  let updates = 0;
  const step = async () => {
    const started = performance.now();
    await program.run({ ...batch, ...stepFeeds(optimizer, { learningRate: 1e-3, updates: () => ++updates }) });
    return (performance.now() - started) / 1000;
  };
  return { model, traced, traceWith, compileSeconds, step, dispose: () => device.dispose() };
}

type Batch = Readonly<Record<string, HostTensor>>;

export function openModel(directory: string, { shape, batch, time = 0 }: StepSpec): { model: Module; objective: Objective; batch: Batch } {
  const config = shapes[shape];
  const random = new Random(2);
  const below = (bound: number, shape: number[]) =>
    hostTensor(
      "int64",
      shape,
      BigInt64Array.from({ length: shape.reduce((a, b) => a * b) }, () => BigInt(random.integer(bound))),
    );
  const labels = "id2label" in config ? Object.values(config.id2label) : [];
  switch (config.model_type) {
    case "llama": {
      const model = loadCausalLM(directory);
      const tokens = () => below(config.vocab_size, [batch, time]);
      return { model, objective: causalLanguageModel(model), batch: { ids: tokens(), targets: tokens() } };
    }
    case "bert": {
      const model = loadSequenceClassifier(directory, labels);
      const lengths = hostTensor("int64", [batch], new BigInt64Array(batch).fill(BigInt(time)));
      const ids = below(config.vocab_size, [batch, time]);
      return { model, objective: sequenceClassification(model), batch: { ids, lengths, labels: below(labels.length, [batch]) } };
    }
    case "vit": {
      const model = loadImageClassifier(directory);
      const size = [batch, 3, config.image_size, config.image_size];
      const data = Float32Array.from({ length: size.reduce((a, b) => a * b) }, () => random.normal());
      const pixels = hostTensor("float32", size, data);
      return { model, objective: imageClassification(model), batch: { pixels, labels: below(labels.length, [batch]) } };
    }
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [directory, baseDtype, compute, spec] = process.argv.slice(2) as [string, BaseDtype, ComputeDtype, string];
  const { step, dispose } = await openStep(directory, JSON.parse(spec), baseDtype, cpu({ compute }));
  await step();
  await step();
  // The kernel keeps the largest resident size, inside steps too; it counts in kB. Mapped weights are part of it.
  console.log(JSON.stringify({ peakMemoryMB: process.resourceUsage().maxRSS / 1e3 }));
  for await (const _ of createInterface({ input: process.stdin })) console.log(JSON.stringify({ seconds: await step() }));
  await dispose();
}
