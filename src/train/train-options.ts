import type { BatchSource } from "../data/index.ts";
import type { Module } from "../nn/index.ts";
import type { Device } from "../runtime/index.ts";
import type { Method } from "./method.ts";
import type { Objective } from "./objectives/index.ts";
import type { Optimizer } from "./optimizers/index.ts";
import type { Schedule } from "./schedules.ts";

export interface TrainOptions {
  model: Module;
  objective: Objective;
  data: BatchSource;
  device: Device;
  optimizer: Optimizer & { learningRate: number };
  /** Factor on the learning rate; default constant. */
  schedule?: Schedule;
  /** Optimizer steps in total. */
  steps: number;
  methods?: readonly Method[];
  /** Batches per optimizer step. Default 1. */
  accumulate?: number;
  /** Gradients are scaled down to this global norm; Infinity: never. Default 1. */
  maxGradientNorm?: number;
  /** Seed of dropout and of methods that draw. Default 0. */
  seed?: number;
  /** Run directory; without one nothing is written. */
  directory?: string;
  /** Steps between checkpoints. Default: only at the end. */
  checkpointEvery?: number;
  /** Checkpoints kept. Default 2. */
  keep?: number;
  /** Steps between evaluations; one always follows the last step when `evaluate` is given. */
  evaluateEvery?: number;
  /** Metrics of the model before training, logged as the evaluation of step 0 when the run begins. */
  baseline?: Readonly<Record<string, number>>;
  evaluate?(step: number): Promise<Readonly<Record<string, number>>>;
  /** Recorded in run.json beside what the trainer knows itself. */
  config?: Readonly<Record<string, unknown>>;
  /** Continue from the newest checkpoint of `directory`. Without it the directory must not hold a run. */
  resume?: boolean;
  /** Ends the run after the present step, with a checkpoint. */
  signal?: AbortSignal;
  onStep?(report: StepReport): void;
  onEvaluation?(step: number, metrics: Readonly<Record<string, number>>): void;
}

export interface StepReport {
  step: number;
  steps: number;
  loss: number;
  learningRate: number;
  gradientNorm: number;
  tokens: number;
  /** Compilation not counted. */
  tokensPerSecond: number;
  /** Bytes of the process in memory. */
  memory: number;
}

export interface TrainResult {
  steps: number;
  interrupted: boolean;
  tokens: number;
  seconds: number;
  /** Of the steps alone: neither compilation nor a program's first run, nor evaluation counts. */
  tokensPerSecond: number;
  lastLoss: number;
  /** The most bytes that the process ever had in memory. */
  peakMemory: number;
  /** The newest checkpoint, when there is a run directory. */
  checkpoint?: string;
}
