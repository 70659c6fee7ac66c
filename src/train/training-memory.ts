import type { TensorType } from "../graph/index.ts";
import { estimateStep, type StepEstimate } from "./estimate.ts";
import { MethodSet } from "./method-set.ts";
import { Accumulator, type StepOptions, traceStep } from "./step.ts";
import type { TrainOptions } from "./train-options.ts";

/** What a step on batches of these types will need, before it is compiled. */
export function estimateTraining(types: Readonly<Record<string, TensorType>>, options: StepOptions, accumulate = 1): StepEstimate {
  if (accumulate === 1) return estimateStep(traceStep(types, options));
  const accumulator = new Accumulator(options);
  return estimateStep([accumulator.traceBatch(types), accumulator.traceUpdate()], accumulate);
}

/** How many batches are looked at for the largest one. */
const sampledBatches = 8;

/**
 * The bytes that the process will have at the peak of `train(options)`, mapped weights included. The methods' weights must be on the model. Batches differ
 * in length: the largest of the first few counts.
 */
export async function trainingMemory(
  options: Pick<
    TrainOptions,
    "model" | "objective" | "data" | "methods" | "optimizer" | "accumulate" | "maxGradientNorm" | "rematerialise"
  >,
): Promise<number> {
  const { model, data, methods = [], optimizer, accumulate = 1, maxGradientNorm = 1, rematerialise } = options;
  const set = new MethodSet(methods, model.trainableParameters());
  const source = set.data(data);
  let types: Readonly<Record<string, TensorType>> = {};
  let largest = -1;
  for (let i = 0; i < Math.min(sampledBatches, source.batchesPerEpoch); i++) {
    const { feeds } = await source.batch(i);
    const size = Object.values(feeds).reduce((n, { data }) => n + data.byteLength, 0);
    if (size <= largest) continue;
    largest = size;
    types = Object.fromEntries(Object.entries(feeds).map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
  }
  const inputs = Object.fromEntries(Object.entries(set.inputs(1)).map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
  const step: StepOptions = {
    objective: set.objective(options.objective),
    optimizer: optimizer.create(set.groups),
    ...(Number.isFinite(maxGradientNorm) && { maxGradientNorm }),
    rematerialise,
  };
  return process.memoryUsage.rss() + estimateTraining({ ...types, ...inputs }, step, accumulate).totalBytes;
}
