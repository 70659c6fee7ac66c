/**
 * A training run to be killed: `killed-run.ts <kind> <directory>` begins it, or goes on from its newest checkpoint. It says "training" when it has
 * come to its steps.
 */
import { lora } from "../../src/methods/index.ts";
import { adamW } from "../../src/train/optimizers/index.ts";
import { RunDirectory } from "../../src/train/run-directory.ts";
import { schedule } from "../../src/train/schedules.ts";
import type { TrainOptions } from "../../src/train/train-options.ts";
import { train } from "../../src/train/trainer.ts";
import { options } from "./counting.ts";

const [kind, directory] = process.argv.slice(2) as [string, string];

const kinds: Record<string, () => Partial<TrainOptions>> = {
  adapter: () => ({ methods: [lora({ rank: 4, dropout: 0.3, targets: "all-linear" })], accumulate: 3, steps: 120, checkpointEvery: 2 }),
  averaged: () => ({
    average: { decay: 0.9 },
    accumulate: 2,
    steps: 60,
    checkpointEvery: 2,
    optimizer: adamW({ learningRate: 1e-2, weightDecay: 0.1 }),
  }),
  // A checkpoint after every step: the process is as likely to be killed while one is written as while a step is computed.
  whole: () => ({ accumulate: 1, steps: 60, checkpointEvery: 1, keep: 1 }),
};

const evaluate = async (step: number) => ({ square: step * step });
await train({
  ...options(kinds[kind]!()),
  schedule: schedule("cosine", { warmup: 10 }),
  directory,
  resume: new RunDirectory(directory).latestCheckpoint() !== undefined,
  baseline: { square: 0 },
  evaluate,
  evaluateEvery: 5,
  onStep: ({ step }) => console.log(`step ${step}`),
});
console.log("done");
