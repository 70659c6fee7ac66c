/** `memory-run.ts <directory> <spec>`: one configuration in a process of its own. Prints the memory that was predicted before its first step, and what it took. */
import { elementCount } from "../src/graph/index.ts";
import { lora } from "../src/methods/index.ts";
import { type BaseDtype, type CausalLM, setBaseDtype } from "../src/models/index.ts";
import { crossEntropyPerTarget, sum } from "../src/ops/index.ts";
import { MatmulPeak } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { estimateStep } from "../src/train/estimate.ts";
import { applyWeights } from "../src/train/method.ts";
import type { Objective } from "../src/train/objectives/index.ts";
import { adamW, oneGroup, type StateDtype } from "../src/train/optimizers/index.ts";
import { Accumulator, stepFeeds, traceStep } from "../src/train/step.ts";
import type { StepSpec } from "./shapes.ts";
import { openModel } from "./training-step.ts";

export interface MemorySpec extends StepSpec {
  baseDtype?: BaseDtype;
  rematerialise?: boolean;
  accumulate?: number;
  stateDtype?: StateDtype;
  /** A language model's loss without chunks: all logits at once. */
  wholeLogits?: boolean;
  /** Timed steps behind the two that count for memory. */
  timed?: number;
}

function wholeLogits(model: CausalLM): Objective {
  return {
    name: "causal-lm",
    trace({ ids, targets }) {
      const { losses, weights } = crossEntropyPerTarget(model.logits(model.forward({ ids: ids! }).hidden), targets!);
      return { total: sum(losses), weight: sum(weights) };
    },
  };
}

const [directory, json] = process.argv.slice(2) as [string, string];
const spec = JSON.parse(json) as MemorySpec;
const { accumulate = 1, timed = 0 } = spec;
const device = cpu();
// As inspect does first: what it holds is part of the process.
const peak = await MatmulPeak.create(device, { size: 1024, products: 4 });
await peak.measure();
await peak.dispose();

const { model, objective: usual, batch } = openModel(directory, spec);
const objective = spec.wholeLogits ? wholeLogits(model as CausalLM) : usual;
setBaseDtype(model, spec.baseDtype ?? "f32");
if (spec.lora) applyWeights(model, [lora({ rank: spec.lora.rank, targets: [...spec.lora.targets] })]);
const optimizer = adamW({ learningRate: 1e-3, ...(spec.stateDtype && { stateDtype: spec.stateDtype }) }).create(
  oneGroup(model.trainableParameters()),
);
const options = { objective, optimizer, maxGradientNorm: 1, rematerialise: spec.rematerialise };
const accumulator = accumulate > 1 ? new Accumulator(options) : undefined;
const traced = accumulator ? [accumulator.traceBatch(batch), accumulator.traceUpdate()] : [traceStep(batch, options)];
const estimate = estimateStep(traced, accumulate);
global.gc?.();
const heldBytes = process.memoryUsage.rss();
const programs = [];
for (const t of traced) programs.push(await device.compile(t));
const [main, update] = programs;
let steps = 0;
const step = async () => {
  const scalars = stepFeeds(optimizer, { learningRate: 1e-3, updates: () => steps + 1 });
  steps++;
  const began = performance.now();
  for (let i = 0; i < accumulate; i++) await main!.run({ ...batch, ...scalars });
  await update?.run(scalars);
  return (performance.now() - began) / 1000;
};
await step();
await step();
await step();
const peakBytes = process.resourceUsage().maxRSS * 1024;
const seconds: number[] = [];
for (let i = 0; i < timed; i++) seconds.push(await step());
await device.dispose();
console.log(
  JSON.stringify({
    predictedBytes: heldBytes + estimate.totalBytes,
    peakBytes,
    heldBytes,
    ...estimate,
    seconds: seconds.sort((a, b) => a - b)[Math.floor(seconds.length / 2)],
    trainable: model.trainableParameters().reduce((n, p) => n + elementCount(p.shape), 0),
  }),
);
