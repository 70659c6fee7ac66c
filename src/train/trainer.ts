import { type BatchSource, ReadAhead } from "../data/index.ts";
import { EspalierError, type Traced, type Variable } from "../graph/index.ts";
import { randomInputs } from "../nn/index.ts";
import { type HostTensor, hostTensor, type Jit, jitTraced } from "../runtime/index.ts";
import { applyWeights } from "./method.ts";
import { MethodSet } from "./method-set.ts";
import type { OptimizerState, ParameterGroup } from "./optimizers/index.ts";
import { RunDirectory, type TrainerState } from "./run-directory.ts";
import { Accumulator, type StepOptions, stepFeeds, traceStep } from "./step.ts";
import type { TrainOptions, TrainResult } from "./train-options.ts";

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
  readonly #batches: ReadAhead;
  readonly #optimizer: OptimizerState;
  readonly #methods: MethodSet;
  readonly #variables: readonly Variable[];
  /** Those of them that outlive the run. */
  readonly #lasting: readonly Variable[];
  readonly #stepOptions: StepOptions;
  readonly #run: RunDirectory | undefined;
  /** One program for each shape of a batch. */
  readonly #program: Jit<string, string>;
  /** With accumulation, the update that follows the last batch. */
  readonly #update: Jit<string, string> | undefined;
  #compiled = 0;
  #state: TrainerState = { step: 0, tokens: 0, updates: {}, methods: [] };

  constructor(options: TrainOptions) {
    this.#o = options;
    const { model, device, methods = [], accumulate = 1, maxGradientNorm = 1 } = options;
    this.#run = options.directory === undefined ? undefined : new RunDirectory(options.directory);
    // Two runs in one directory would mix their metrics and remove each other's checkpoints.
    const older = options.resume ? undefined : this.#run?.latestCheckpoint();
    if (older)
      throw new EspalierError(
        "run-exists",
        `${options.directory} holds a run already (checkpoint of step ${older.step}): continue it with resume (--resume), remove it first (--replace), or give another directory.`,
      );
    this.#accumulate = accumulate;
    applyWeights(model, methods);
    const parameters = model.trainableParameters();
    this.#methods = new MethodSet(methods, parameters);
    this.#data = this.#methods.data(options.data);
    this.#batches = new ReadAhead(this.#data, options.steps * accumulate);
    this.#optimizer = options.optimizer.create(this.#methods.groups);
    this.#lasting = [...parameters, ...this.#methods.variables];
    this.#variables = [...this.#lasting, ...this.#optimizer.variables];
    refuseDuplicates(this.#variables);
    this.#stepOptions = {
      objective: this.#methods.objective(options.objective),
      optimizer: this.#optimizer,
      ...(Number.isFinite(maxGradientNorm) && { maxGradientNorm }),
    };
    const accumulator = accumulate > 1 ? new Accumulator(this.#stepOptions) : undefined;
    const counted = (trace: () => Traced): Traced => {
      this.#compiled++;
      return trace();
    };
    this.#program = jitTraced(device, (types) =>
      counted(() => (accumulator ? accumulator.traceBatch(types) : traceStep(types, this.#stepOptions))),
    );
    this.#update = accumulator && jitTraced(device, () => counted(() => accumulator.traceUpdate()));
  }

  async run(): Promise<TrainResult> {
    try {
      return await this.#steps();
    } finally {
      // After an error too: what was trained until then outlives the device.
      for (const v of this.#lasting) this.#o.device.persist(v);
    }
  }

  async #steps(): Promise<TrainResult> {
    const { steps, signal, device, model } = this.#o;
    const started = performance.now();
    this.#start();
    const state = this.#state;
    const firstTokens = state.tokens;
    let lastLoss = Number.NaN;
    let checkpoint = this.#run?.latestCheckpoint()?.path;
    let saved = state.step;
    const save = () => {
      if (!this.#run || saved === state.step) return;
      checkpoint = this.#run.saveCheckpoint({ ...state, methods: this.#methods.state() }, this.#variables, device, this.#o.keep ?? 2);
      saved = state.step;
    };
    const timed = { tokens: 0, milliseconds: 0 };
    while (state.step < steps && !signal?.aborted) {
      const { loss, gradientNorm, tokens, learningRate, description, milliseconds, warm } = await this.#step(state.step + 1);
      if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) this.#stop(state.step + 1, loss, gradientNorm, description, checkpoint);
      state.step++;
      state.tokens += tokens;
      const { step } = state;
      lastLoss = loss;
      if (warm) {
        timed.tokens += tokens;
        timed.milliseconds += milliseconds;
      }
      const tokensPerSecond = (tokens / milliseconds) * 1000;
      this.#run?.log({ step, loss, learningRate, gradientNorm, tokens: state.tokens, tokensPerSecond });
      const memory = process.memoryUsage().rss;
      const report = { step, steps, loss, learningRate, gradientNorm, tokens: state.tokens, tokensPerSecond, memory };
      this.#o.onStep?.(report);
      await this.#methods.afterStep(report, { model, device, objective: this.#stepOptions.objective, data: this.#data });
      // Before the evaluation, which may fail or be interrupted.
      if (step === steps || (this.#o.checkpointEvery && step % this.#o.checkpointEvery === 0)) save();
      if (this.#o.evaluate && (step === steps || (this.#o.evaluateEvery && step % this.#o.evaluateEvery === 0))) {
        const metrics = await this.#o.evaluate(step);
        this.#run?.logEvaluation(step, metrics);
        this.#o.onEvaluation?.(step, metrics);
      }
    }
    save();
    const seconds = (performance.now() - started) / 1000;
    const tokensPerSecond = timed.milliseconds > 0 ? (timed.tokens / timed.milliseconds) * 1000 : (state.tokens - firstTokens) / seconds;
    const peakMemory = process.resourceUsage().maxRSS * 1024;
    const interrupted = state.step < steps;
    return { steps: state.step, interrupted, tokens: state.tokens, seconds, tokensPerSecond, lastLoss, peakMemory, checkpoint };
  }

  #start(): void {
    const { optimizer, methods = [], steps, seed = 0, config, resume } = this.#o;
    this.#run?.sweep();
    const latest = resume ? this.#run?.latestCheckpoint() : undefined;
    if (resume && !latest)
      throw new EspalierError(
        "nothing-to-resume",
        `${this.#o.directory ?? "The run"} holds no finished checkpoint to resume from; start it without resume.`,
      );
    if (latest) {
      this.#state = this.#run!.loadCheckpoint(latest.path, this.#variables, this.#o.device);
      this.#methods.restore(this.#state.methods);
    } else {
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
    this.#run?.truncateMetrics(latest ? this.#state.step : -1);
    if (!latest && this.#o.baseline) this.#run?.logEvaluation(0, this.#o.baseline);
  }

  async #step(step: number) {
    const { steps, seed = 0 } = this.#o;
    const began = performance.now();
    const compiledBefore = this.#compiled;
    let compiling = 0;
    const prepare = async (program: Jit<string, string>, feeds: Readonly<Record<string, HostTensor>>) => {
      const [before, count] = [performance.now(), this.#compiled];
      await program.prepare(feeds);
      if (this.#compiled > count) compiling += performance.now() - before;
    };
    const learningRate = this.#o.optimizer.learningRate * (this.#o.schedule?.(step, steps) ?? 1);
    const open = this.#methods.choose(step);
    const updates = Object.fromEntries(Object.entries(open).map(([gate, on]) => [gate, (this.#state.updates[gate] ?? 0) + (on ? 1 : 0)]));
    const scalars = stepFeeds(this.#optimizer, {
      learningRate,
      // The scalars of a closed gate are not used.
      updates: ({ gate }: ParameterGroup) => (gate === undefined ? step : Math.max(1, updates[gate]!)),
      open,
    });
    const further = this.#methods.inputs(step);
    let [total, weight, tokens, gradientNorm] = [0, 0, 0, 0];
    const descriptions: string[] = [];
    for (let part = 0; part < this.#accumulate; part++) {
      const index = (step - 1) * this.#accumulate + part;
      const batch = await this.#batches.take(index);
      const feeds = { ...batch.feeds, ...further };
      await prepare(this.#program, feeds);
      const out = await this.#program(feeds, { ...scalars, ...randomFeeds(seed, index) });
      total += Number(out.total!.data[0]);
      weight += Number(out.weight!.data[0]);
      tokens += batch.tokens;
      descriptions.push(batch.description);
      if (out.gradientNorm) gradientNorm = Number(out.gradientNorm.data[0]);
    }
    if (this.#update) {
      await prepare(this.#update, {});
      gradientNorm = Number((await this.#update({}, scalars)).gradientNorm!.data[0]);
    }
    this.#state.updates = updates;
    return {
      loss: weight === 0 ? 0 : total / weight,
      gradientNorm,
      tokens,
      learningRate,
      description: descriptions.join("; "),
      milliseconds: performance.now() - began - compiling,
      warm: this.#compiled === compiledBefore,
    };
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
    await this.#program.dispose();
    await this.#update?.dispose();
  }
}

/** Checkpoints know variables by their names. */
function refuseDuplicates(variables: readonly Variable[]): void {
  const seen = new Set<string>();
  for (const { name } of variables) {
    if (seen.has(name)) throw new EspalierError("duplicate-name", `Two variables of the run are called "${name}"; rename one.`);
    seen.add(name);
  }
}

/** Inputs of the counter-based random numbers; a program without any ignores them. */
function randomFeeds(seed: number, step: number): Record<string, HostTensor> {
  return {
    [randomInputs.seed]: hostTensor("int32", [], Int32Array.of(seed | 0)),
    [randomInputs.step]: hostTensor("int32", [], Int32Array.of(step)),
  };
}
