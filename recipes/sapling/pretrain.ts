/**
 * Pre-trains sapling on the packs and writes runs/sapling. Resumable: run it again after an interruption.
 * `npx tsx recipes/sapling/pretrain.ts [--steps N]`
 */
import { existsSync, readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { LlamaForCausalLM } from "../../src/models/families/llama.ts";
import { cpu } from "../../src/runtime/node.ts";
import { Evaluator } from "../../src/train/evaluate.ts";
import { causalLanguageModel } from "../../src/train/objectives/index.ts";
import { adamW } from "../../src/train/optimizers/index.ts";
import { schedule } from "../../src/train/schedules.ts";
import { train } from "../../src/train/trainer.ts";
import { saplingConfig, saplingTraining as t } from "./config.ts";
import { readPack, trainingWindows, windows } from "./packs.ts";

const { values } = parseArgs({
  options: { steps: { type: "string", default: "3600" }, directory: { type: "string", default: "runs/sapling" } },
});
const steps = Number(values.steps);
const train16 = readPack(".cache/sapling/train.bin");
const held = readPack(".cache/sapling/heldout.bin");
const heldBytes = (JSON.parse(readFileSync("recipes/sapling/baselines.json", "utf8")) as { heldOutBytes: number }).heldOutBytes;

const device = cpu();
const model = new LlamaForCausalLM(saplingConfig, t.seed);
console.log(
  `sapling: ${model.parameters().reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0)} parameters, ${steps} steps of ${t.tokensPerStep} tokens`,
);
const objective = causalLanguageModel(model);

// A fixed sixteenth of the held-out text while training; the whole of it is measured by evaluate.ts.
const evaluator = new Evaluator(device, objective);
const starts = Array.from({ length: Math.floor((held.length - 1) / 256) }, (_, i) => i * 256).filter((_, i) => i % 16 === 0);
const groups = Array.from({ length: Math.floor(starts.length / 16) }, (_, i) => starts.slice(i * 16, i * 16 + 16));

const controller = new AbortController();
process.once("SIGINT", () => controller.abort());
process.once("SIGTERM", () => controller.abort());

const started = Date.now();
const result = await train({
  model,
  objective,
  device,
  data: trainingWindows(train16, t.seed, (step) => {
    const length = t.phases[step < t.phases[0]!.share * steps ? 0 : 1]!.sequenceLength;
    return { length, batchSize: t.tokensPerStep / length };
  }),
  optimizer: adamW({ learningRate: t.learningRate, betas: t.betas, weightDecay: t.weightDecay }),
  schedule: schedule("cosine", { warmup: t.warmup, floor: t.floor }),
  maxGradientNorm: t.maxGradientNorm,
  steps,
  seed: t.seed,
  directory: values.directory,
  resume: existsSync(`${values.directory}/checkpoints`),
  checkpointEvery: 200,
  evaluateEvery: 250,
  config: { config: saplingConfig, training: t, corpusTokens: train16.length },
  async evaluate() {
    const { loss } = await evaluator.run({ batchesPerEpoch: groups.length, batch: (i) => windows(held, groups[i]!, 256) });
    return { loss, bitsPerByte: (loss * held.length) / Math.LN2 / heldBytes };
  },
  signal: controller.signal,
  onStep(r) {
    if (r.step % 20 === 0)
      console.log(
        `step ${r.step}/${r.steps}  loss ${r.loss.toFixed(3)}  lr ${r.learningRate.toExponential(2)}  |g| ${r.gradientNorm.toFixed(2)}  ${r.tokensPerSecond.toFixed(0)} tok/s  ${((Date.now() - started) / 60000).toFixed(1)} min  ${(r.memory / 1e6).toFixed(0)} MB`,
      );
  },
  onEvaluation: (step, metrics) => console.log(`step ${step}  held-out ${JSON.stringify(metrics)}`),
});
console.log(JSON.stringify(result));
process.exit(result.interrupted ? 130 : 0);
