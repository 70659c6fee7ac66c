import type { BatchSource } from "../data/index.ts";
import { EspalierError, type Traced, type Variable } from "../graph/index.ts";
import { type Module, randomInputs } from "../nn/index.ts";
import { type Device, type HostTensor, hostTensor, type Program } from "../runtime/index.ts";
import { applyWeights, type Method } from "./method.ts";
import type { Objective } from "./objectives.ts";
import type { Optimizer } from "./optimizers.ts";
import { RunDirectory } from "./run-directory.ts";
import type { Schedule } from "./schedules.ts";
import { Accumulator, prefixed, traceStep } from "./step.ts";

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
  tokensPerSecond: number;
  /** Bytes of the process in memory. */
  memory: number;
}

export interface TrainResult {
  steps: number;
  interrupted: boolean;
  tokens: number;
  seconds: number;
  tokensPerSecond: number;
  lastLoss: number;
  peakMemory: number;
  /** The newest checkpoint, when there is a run directory. */
  checkpoint?: string;
}

/** Trains the model's unfrozen parameters in place. */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const trainer = new Trainer(options);
  try {
    return await trainer.run();
  } finally {
    await trainer.dispose();
  }
}

class Trainer {
  readonly #o: TrainOptions;
  readonly #accumulate: number;
  readonly #data: BatchSource;
  readonly #optimizer;
  readonly #variables: readonly Variable[];
  readonly #programs = new Map<string, Promise<Program>>();
  readonly #accumulator: Accumulator | undefined;
  readonly #run: RunDirectory | undefined;
  readonly #stepOptions;
  #update: Promise<Program> | undefined;

  constructor(options: TrainOptions) {
    this.#o = options;
    this.#run = options.directory === undefined ? undefined : new RunDirectory(options.directory);
    // Two runs in one directory would mix their metrics and remove each other's checkpoints.
    const older = options.resume ? undefined : this.#run?.latestCheckpoint();
    if (older)
      throw new EspalierError(
        "run-exists",
        `${options.directory} holds a run already (checkpoint of step ${older.step}): continue it with resume (--resume), remove it first (--replace), or give another directory.`,
      );
    this.#accumulate = options.accumulate ?? 1;
    const methods = options.methods ?? [];
    applyWeights(options.model, methods);
    const objective = methods.reduce((base, m) => m.objective?.(base) ?? base, options.objective);
    this.#data = methods.reduce((source, m) => m.data?.(source) ?? source, options.data);
    const parameters = options.model.trainableParameters();
    this.#optimizer = options.optimizer.create(parameters);
    this.#variables = [...parameters, ...this.#optimizer.variables];
    const maxGradientNorm = options.maxGradientNorm ?? 1;
    this.#stepOptions = {
      objective,
      parameters,
      optimizer: this.#optimizer,
      ...(Number.isFinite(maxGradientNorm) && { maxGradientNorm }),
    };
    this.#accumulator = this.#accumulate > 1 ? new Accumulator(this.#stepOptions) : undefined;
  }

  async run(): Promise<TrainResult> {
    const { steps, signal, device } = this.#o;
    const started = performance.now();
    let { step, tokens } = this.#start();
    const [firstStep, firstTokens] = [step, tokens];
    let lastLoss = Number.NaN;
    let peakMemory = process.memoryUsage().rss;
    let checkpoint = this.#run?.latestCheckpoint()?.path;
    const save = () => {
      if (this.#run) checkpoint = this.#run.saveCheckpoint({ step, tokens }, this.#variables, device, this.#o.keep ?? 2);
    };
    // Speed is that of the steps alone: neither compilation nor evaluation counts.
    let stepping = 0;
    while (step < steps && !signal?.aborted) {
      const first = step === firstStep;
      const before = performance.now();
      const { loss, gradientNorm, tokens: seen, learningRate, description } = await this.#step(step + 1);
      const took = performance.now() - before;
      if (!first) stepping += took;
      if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) this.#stop(step + 1, loss, gradientNorm, description, checkpoint);
      step++;
      tokens += seen;
      lastLoss = loss;
      const memory = process.memoryUsage().rss;
      peakMemory = Math.max(peakMemory, memory);
      const tokensPerSecond = (seen / took) * 1000;
      this.#run?.log({ step, loss, learningRate, gradientNorm, tokens, tokensPerSecond });
      this.#o.onStep?.({ step, steps, loss, learningRate, gradientNorm, tokens, tokensPerSecond, memory });
      if (this.#o.evaluate && (step === steps || (this.#o.evaluateEvery && step % this.#o.evaluateEvery === 0))) {
        const metrics = await this.#o.evaluate(step);
        this.#run?.log({ step, ...Object.fromEntries(Object.entries(metrics).map(([k, v]) => [`eval.${k}`, v])) });
        this.#o.onEvaluation?.(step, metrics);
      }
      if (step < steps && this.#o.checkpointEvery && step % this.#o.checkpointEvery === 0) save();
    }
    if (step > firstStep) save();
    for (const p of this.#stepOptions.parameters) device.persist(p);
    const seconds = (performance.now() - started) / 1000;
    const timed = tokens - firstTokens;
    const perStep = timed / Math.max(1, step - firstStep);
    const tokensPerSecond = stepping > 0 ? (perStep * (step - firstStep - 1) * 1000) / stepping : timed / seconds;
    return { steps: step, interrupted: step < steps, tokens, seconds, tokensPerSecond, lastLoss, peakMemory, checkpoint };
  }

  #start(): { step: number; tokens: number } {
    const { optimizer, methods = [], steps, seed = 0, config, resume } = this.#o;
    this.#run?.sweep();
    const latest = resume ? this.#run?.latestCheckpoint() : undefined;
    if (resume && !latest)
      throw new EspalierError(
        "nothing-to-resume",
        `${this.#o.directory ?? "The run"} holds no finished checkpoint to resume from; start it without resume.`,
      );
    const state = latest ? this.#run!.loadCheckpoint(latest.path, this.#variables, this.#o.device) : { step: 0, tokens: 0 };
    if (!latest) {
      this.#run?.writeRun({
        ...config,
        objective: this.#o.objective.name,
        optimizer: { name: optimizer.name, ...optimizer.options },
        methods: methods.map((m) => ({ name: m.name, ...m.options })),
        steps,
        seed,
        accumulate: this.#accumulate,
        maxGradientNorm: this.#o.maxGradientNorm ?? 1,
        node: process.version,
      });
    }
    this.#run?.truncateMetrics(state.step);
    return state;
  }

  async #step(step: number) {
    const { steps, seed = 0 } = this.#o;
    const learningRate = this.#o.optimizer.learningRate * (this.#o.schedule?.(step, steps) ?? 1);
    const scalars = prefixed(this.#optimizer.scalars(step, learningRate));
    const common: Record<string, HostTensor> = Object.fromEntries(
      Object.entries(scalars).map(([name, v]) => [name, hostTensor("float32", [], Float32Array.of(v))]),
    );
    let [total, weight, tokens, gradientNorm] = [0, 0, 0, 0];
    const descriptions: string[] = [];
    for (let part = 0; part < this.#accumulate; part++) {
      const index = (step - 1) * this.#accumulate + part;
      const batch = this.#data.batch(index);
      const feeds = { ...batch.feeds, ...common, ...randomFeeds(seed, index) };
      const out = await (await this.#program(batch.feeds)).run(feeds);
      total += Number(out.total!.data[0]);
      weight += Number(out.weight!.data[0]);
      tokens += batch.tokens;
      descriptions.push(batch.description);
      if (out.gradientNorm) gradientNorm = Number(out.gradientNorm.data[0]);
    }
    if (this.#accumulator) {
      this.#update ??= this.#o.device.compile(this.#accumulator.traceUpdate());
      gradientNorm = Number((await (await this.#update).run(common)).gradientNorm!.data[0]);
    }
    return { loss: weight === 0 ? 0 : total / weight, gradientNorm, tokens, learningRate, description: descriptions.join("; ") };
  }

  /** The training program for these shapes. */
  #program(feeds: Readonly<Record<string, HostTensor>>): Promise<Program> {
    const key = Object.entries(feeds)
      .map(([name, { dtype, shape }]) => `${name}:${dtype}[${shape}]`)
      .join(" ");
    let program = this.#programs.get(key);
    if (!program) {
      const types = Object.fromEntries(Object.entries(feeds).map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
      const traced: Traced = this.#accumulator ? this.#accumulator.traceBatch(types) : traceStep(types, this.#stepOptions);
      program = this.#o.device.compile(traced);
      this.#programs.set(key, program);
    }
    return program;
  }

  #stop(step: number, loss: number, gradientNorm: number, batch: string, checkpoint: string | undefined): never {
    const what = Number.isFinite(loss) ? `gradient norm became ${gradientNorm}` : `loss became ${loss}`;
    const last = checkpoint ? `The last finite checkpoint is ${checkpoint}.` : "No checkpoint was written before.";
    throw new EspalierError(
      "not-finite",
      `Step ${step}: the ${what} on ${batch}. ${last} Lower the learning rate, lengthen the warm-up, or look at that batch.`,
    );
  }

  async dispose(): Promise<void> {
    for (const p of [...this.#programs.values(), this.#update]) await (await p?.catch(() => undefined))?.dispose();
  }
}

/** Inputs of the counter-based random numbers; a program without any ignores them. */
function randomFeeds(seed: number, step: number): Record<string, HostTensor> {
  return {
    [randomInputs.seed]: hostTensor("int32", [], Int32Array.of(seed | 0)),
    [randomInputs.step]: hostTensor("int32", [], Int32Array.of(step)),
  };
}
