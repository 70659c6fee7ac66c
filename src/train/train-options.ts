import type { BatchSource } from "../data/index.ts";
import type { Module } from "../nn/index.ts";
import type { Device } from "../runtime/index.ts";
import type { Method } from "./method.ts";
import type { Objective } from "./objectives/index.ts";
import type { AverageOptions, Optimizer } from "./optimizers/index.ts";
import type { GroupRule } from "./parameter-groups.ts";
import type { RunLock } from "./run-lock.ts";
import type { Schedule } from "./schedules.ts";
import type { StepMilliseconds } from "./step-runner.ts";

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
  /** Ends the run after this step for now, with a checkpoint, as `signal` does: for a search that trains what is worth it further. */
  pauseAt?: number;
  methods?: readonly Method[];
  /** Learning rates, decays, schedules and steps of parameters by their names. A rule that fits no trained parameter is an error. */
  groups?: readonly GroupRule[];
  /** Keeps an exponential moving average of the trained weights, with which evaluations are made; at the end of the run it is in the weights' place. */
  average?: AverageOptions;
  /** Batches per optimizer step. Default 1. */
  accumulate?: number;
  /** Gradients are scaled down to this global norm; Infinity: never. Default 1. */
  maxGradientNorm?: number;
  /**
   * A batch whose loss or gradients are not finite stops the run, or is skipped: weights, moments and the number of updates are then as if it had not
   * been, bit for bit. Of an accumulated step only that batch is left out, or the whole step where only the sum of the gradients tells. Default "stop".
   */
  notFinite?: "stop" | "skip";
  /** That many steps in a row without an update, because batches were skipped, stop the run. Default 10. */
  skipLimit?: number;
  /**
   * Computes the values of each block of the model (a module in a list, as its layers) again in the backward pass, rather than keep them: the
   * intermediate values of one block in place of all, for about a third more time. Results are the same. Default false.
   */
  rematerialise?: boolean;
  /** Seed of dropout and of methods that draw. Default 0. */
  seed?: number;
  /** Run directory; without one nothing is written. It is locked while the run lasts. */
  directory?: string;
  /** The directory's lock, where the caller holds it already. */
  lock?: RunLock;
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
  /** Continue from the newest intact checkpoint of `directory`. Without it the directory must not hold a run. */
  resume?: boolean;
  /**
   * Begins, unless it is resumed, from the newest intact checkpoint of another run, whose directory this is: with its weights, moments, step and what
   * methods keep. Model, methods and optimizer must be of the same kinds and shapes; learning rate, decay and the like may differ.
   */
  branchFrom?: string;
  /** Ends the run after the present step, with a checkpoint. */
  signal?: AbortSignal;
  onStep?(report: StepReport): void;
  onEvaluation?(step: number, metrics: Readonly<Record<string, number>>): void;
  /** A checkpoint was written. */
  onCheckpoint?(step: number, path: string): void;
  /** What the user should know and what does not stop the run: a damaged checkpoint, a skipped batch. Default: a warning on the console. */
  onNotice?(message: string): void;
}

export interface StepReport {
  step: number;
  steps: number;
  /** NaN when every batch of the step was skipped. */
  loss: number;
  learningRate: number;
  gradientNorm: number;
  /** Tokens trained on so far. */
  tokens: number;
  /** Compilation not counted. */
  tokensPerSecond: number;
  /** Where the step's time went, in milliseconds; compilation not counted. */
  milliseconds: StepMilliseconds;
  /** Batches of this step that were left out because they were not finite. */
  skippedBatches: number;
  /** Bytes of the process in memory. */
  memory: number;
}

export interface TrainResult {
  steps: number;
  interrupted: boolean;
  tokens: number;
  seconds: number;
  /** Where they went, in milliseconds. */
  milliseconds: RunMilliseconds;
  /** Of the steps alone: neither compilation nor a program's first run, nor evaluation counts. */
  tokensPerSecond: number;
  lastLoss: number;
  /** Batches that this call left out because they were not finite. */
  skippedBatches: number;
  /** The most bytes that the process ever had in memory. */
  peakMemory: number;
  /** The newest checkpoint, when there is a run directory. */
  checkpoint?: string;
}

export interface RunMilliseconds extends StepMilliseconds {
  /** Tracing and compiling programs. */
  compile: number;
  checkpoints: number;
  evaluations: number;
}
