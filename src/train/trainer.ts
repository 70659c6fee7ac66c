import { existsSync } from "node:fs";
import { type BatchSource, ReadAhead } from "../data/index.ts";
import { EspalierError, type Variable } from "../graph/index.ts";
import { initialState, type TrainerState } from "./checkpoint.ts";
import { FutileSteps } from "./futile-steps.ts";
import { LossScaler } from "./loss-scaler.ts";
import { withMemoryAdvice } from "./memory-advice.ts";
import { applyWeights } from "./method.ts";
import { MethodSet } from "./method-set.ts";
import { averaged, type Optimizer, type OptimizerState, type ParameterGroup, swapAverages } from "./optimizers/index.ts";
import { describeRule, learningRateOf, parameterGroups } from "./parameter-groups.ts";
import { RunDirectory } from "./run-directory.ts";
import { lockRun } from "./run-lock.ts";
import { RunTimes } from "./run-times.ts";
import type { StepOptions } from "./step.ts";
import { type StepOutcome, StepRunner } from "./step-runner.ts";
import type { TrainOptions, TrainResult } from "./train-options.ts";

/** Trains the model's unfrozen parameters in place. */
export async function train(options: TrainOptions): Promise<TrainResult> {
  checkOptions(options);
  const run = options.directory === undefined ? undefined : new RunDirectory(options.directory);
  const lock = run && !options.lock ? lockRun(run.path) : undefined;
  try {
    const trainer = new Trainer(options, run);
    try {
      return await trainer.run();
    } finally {
      await trainer.dispose();
    }
  } finally {
    lock?.release();
  }
}

class Trainer {
  readonly #o: TrainOptions;
  readonly #accumulate: number;
  readonly #data: BatchSource;
  readonly #optimizer: OptimizerState;
  readonly #methods: MethodSet;
  readonly #variables: readonly Variable[];
  /** Those of them that outlive the run. */
  readonly #lasting: readonly Variable[];
  readonly #stepOptions: StepOptions;
  readonly #run: RunDirectory | undefined;
  readonly #runner: StepRunner;
  readonly #lossScaler: LossScaler | undefined;
  readonly #notice: (message: string) => void;
  readonly #times = new RunTimes();
  readonly #futile: FutileSteps;
  #state: TrainerState = initialState();
  #lastLoss = Number.NaN;
  #checkpoint: string | undefined;
  /** The step whose state lies in a checkpoint. */
  #saved = 0;

  constructor(options: TrainOptions, run: RunDirectory | undefined) {
    this.#o = options;
    const { model, device, methods = [], accumulate = 1, maxGradientNorm = 1, notFinite = "stop", seed = 0 } = options;
    this.#notice = options.onNotice ?? ((message) => console.warn(message));
    this.#run = run;
    const older = options.resume ? undefined : run?.latestCheckpoint();
    if (older)
      throw new EspalierError(
        "run-exists",
        `${options.directory} holds a run already (checkpoint of step ${older.step}): continue it with resume (--resume), remove it first (--replace), or give another directory.`,
      );
    this.#accumulate = accumulate;
    // The graph, checkpoints and rules know parameters by their names, which a model put together by hand may not have yet.
    if (model.parameters().some(({ name }) => name === "")) model.assignNames();
    applyWeights(model, methods);
    const parameters = [...model.trainableParameters(), ...(options.objective.parameters ?? [])];
    this.#methods = new MethodSet(options.groups ? [...methods, parameterGroups(options.groups, parameters)] : methods, parameters);
    this.#data = this.#methods.data(options.data);
    this.#futile = new FutileSteps(options, this.#data.batchesPerEpoch, this.#notice);
    this.#optimizer = optimizerOf(options).create(this.#methods.groups);
    this.#lasting = [...parameters, ...this.#methods.variables];
    this.#variables = [...this.#lasting, ...this.#optimizer.variables];
    refuseDuplicates(this.#variables);
    this.#stepOptions = {
      objective: this.#methods.objective(options.objective),
      optimizer: this.#optimizer,
      ...(Number.isFinite(maxGradientNorm) && { maxGradientNorm }),
      rematerialise: options.rematerialise,
      compute: device.compute,
    };
    this.#lossScaler = device.compute === "float16" ? new LossScaler() : undefined;
    const batches = new ReadAhead(this.#data, options.steps * accumulate);
    this.#runner = new StepRunner({ ...this.#stepOptions, device, batches, accumulate, seed, notFinite, lossScaler: this.#lossScaler });
  }

  async run(): Promise<TrainResult> {
    const persist = async () => {
      await this.#o.device.toHost();
      for (const v of this.#lasting) this.#o.device.persist(v);
    };
    let result: TrainResult;
    try {
      result = await this.#steps();
    } catch (error) {
      // What was trained until then outlives the device. Where there is no memory for that either, the first error says more.
      await Promise.resolve()
        .then(persist)
        .catch(() => undefined);
      throw withMemoryAdvice(error);
    }
    await persist();
    return result;
  }

  async #steps(): Promise<TrainResult> {
    const { steps, pauseAt = steps, signal } = this.#o;
    const started = performance.now();
    await this.#start();
    const state = this.#state;
    const firstTokens = state.tokens;
    while (state.step < Math.min(steps, pauseAt) && !signal?.aborted) await this.#times.turn(() => this.#step());
    await this.#save();
    // Checkpoints hold both; what is used from now on are the averages.
    if (state.step >= steps) await swapAverages(this.#optimizer, this.#o.device);
    const seconds = (performance.now() - started) / 1000;
    return {
      steps: state.step,
      interrupted: state.step < steps,
      tokens: state.tokens,
      seconds,
      milliseconds: this.#times.milliseconds,
      tokensPerSecond: this.#times.tokensPerSecond ?? (state.tokens - firstTokens) / seconds,
      lastLoss: this.#lastLoss,
      skippedBatches: this.#futile.skipped,
      peakMemory: process.resourceUsage().maxRSS * 1024,
      checkpoint: this.#checkpoint,
    };
  }

  async #start(): Promise<void> {
    const { methods = [], groups = [], steps, seed = 0, config, resume, branchFrom } = this.#o;
    const optimizer = optimizerOf(this.#o);
    this.#run?.sweep();
    const latest = resume ? this.#run?.intactCheckpoint(this.#notice) : undefined;
    if (resume && !latest)
      throw new EspalierError(
        "nothing-to-resume",
        `${this.#o.directory ?? "The run"} holds no finished checkpoint to resume from; start it without resume.`,
      );
    if (latest) {
      this.#restore(this.#run!, latest.path);
      this.#run!.removeCheckpointsAfter(this.#state.step);
      this.#checkpoint = latest.path;
      this.#saved = this.#state.step;
    } else {
      if (branchFrom !== undefined) this.#branch(branchFrom);
      this.#run?.writeRun({
        ...config,
        objective: this.#o.objective.name,
        optimizer: { name: optimizer.name, ...optimizer.options },
        methods: methods.map((m) => ({ name: m.name, ...m.options })),
        ...(groups.length > 0 && { groups: groups.map(describeRule) }),
        steps,
        seed,
        accumulate: this.#accumulate,
        maxGradientNorm: this.#o.maxGradientNorm ?? 1,
        notFinite: this.#o.notFinite ?? "stop",
        node: process.version,
      });
    }
    this.#run?.truncateMetrics(latest ? this.#state.step : -1);
    if (!latest && this.#o.baseline) this.#run?.logEvaluation(0, this.#o.baseline);
    // The run was killed between a checkpoint and the evaluation that follows it.
    if (latest && this.#state.step > 0) await this.#evaluate();
  }

  #restore(run: RunDirectory, checkpoint: string): void {
    this.#state = run.loadCheckpoint(checkpoint, this.#variables, this.#o.device);
    this.#methods.restore(this.#state.methods);
    if (this.#state.lossScale) this.#lossScaler?.restore(this.#state.lossScale);
  }

  #branch(directory: string): void {
    const origin = existsSync(directory) ? new RunDirectory(directory) : undefined;
    const newest = origin?.intactCheckpoint(this.#notice);
    if (!newest) throw new EspalierError("nothing-to-resume", `${directory} holds no finished checkpoint to branch from.`);
    this.#restore(origin!, newest.path);
  }

  async #step(): Promise<void> {
    const { steps, device, model, checkpointEvery } = this.#o;
    const state = this.#state;
    const step = state.step + 1;
    const at = { peak: this.#o.optimizer.learningRate, schedule: this.#o.schedule, step, steps };
    const learningRate = at.peak * (at.schedule?.(step, steps) ?? 1);
    let updates: Record<string, number> = {};
    const outcome = await this.#runner.run(step, () => {
      const open = this.#methods.choose(step);
      updates = Object.fromEntries(Object.entries(open).map(([gate, on]) => [gate, (state.updates[gate] ?? 0) + (on ? 1 : 0)]));
      const scalars = {
        learningRate: (group: ParameterGroup) => learningRateOf(group, at),
        // The scalars of a closed gate are not used.
        updates: ({ gate }: ParameterGroup) => (gate === undefined ? step - state.withoutUpdate : Math.max(1, updates[gate]!)),
        open,
      };
      return { scalars, further: this.#methods.inputs(step) };
    });
    this.#futile.check({ step, outcome, state, checkpoint: this.#checkpoint });
    state.step = step;
    state.tokens += outcome.tokens;
    if (outcome.updated) Object.assign(state, { updates, skippedInRow: 0, targetlessInRow: 0 });
    else state.withoutUpdate++;
    this.#lastLoss = outcome.loss;
    const report = this.#report(outcome, learningRate);
    this.#o.onStep?.(report);
    if (outcome.updated) await this.#methods.afterStep(report, { model, device, objective: this.#stepOptions.objective, data: this.#data });
    // Before the evaluation, which may fail or be interrupted.
    if (step === steps || (checkpointEvery && step % checkpointEvery === 0)) await this.#save();
    await this.#evaluate();
  }

  #report(outcome: StepOutcome, learningRate: number) {
    const { step, tokens: all } = this.#state;
    const { loss, gradientNorm, skippedBatches } = outcome;
    const { data, session, rest } = outcome.milliseconds;
    const tokensPerSecond = this.#times.step(outcome);
    this.#run?.log({
      step,
      loss,
      learningRate,
      gradientNorm,
      tokens: all,
      ...(skippedBatches > 0 && { skippedBatches }),
      tokensPerSecond,
      dataMilliseconds: data,
      sessionMilliseconds: session,
      restMilliseconds: rest,
    });
    const common = { step, steps: this.#o.steps, loss, learningRate, gradientNorm, tokens: all, tokensPerSecond, skippedBatches };
    return { ...common, milliseconds: { data, session, rest }, memory: process.memoryUsage.rss() };
  }

  async #save(): Promise<void> {
    const state = this.#state;
    if (!this.#run || this.#saved === state.step) return;
    this.#checkpoint = await this.#times.during("checkpoints", () => this.#write(this.#run!));
    this.#saved = state.step;
    this.#o.onCheckpoint?.(state.step, this.#checkpoint);
  }

  /** @returns the path of the checkpoint */
  async #write(run: RunDirectory): Promise<string> {
    const state = this.#state;
    await this.#o.device.toHost();
    const whole = { ...state, methods: this.#methods.state(), ...(this.#lossScaler && { lossScale: this.#lossScaler.state() }) };
    return run.saveCheckpoint(whole, this.#variables, this.#o.device, this.#o.keep ?? 2);
  }

  /** The evaluation that is due after the present step, unless it was made before the run was killed. */
  async #evaluate(): Promise<void> {
    const { steps, evaluateEvery } = this.#o;
    const { step } = this.#state;
    const due = step === steps || (evaluateEvery && step % evaluateEvery === 0);
    if (!this.#o.evaluate || !due || this.#run?.holdsEvaluation(step)) return;
    const metrics = await this.#times.during("evaluations", () => this.#withAverages(() => this.#o.evaluate!(step)));
    this.#run?.logEvaluation(step, metrics);
    this.#o.onEvaluation?.(step, metrics);
  }

  /** Evaluates the averages of the weights, where the run keeps them. */
  async #withAverages<T>(evaluate: () => Promise<T>): Promise<T> {
    await swapAverages(this.#optimizer, this.#o.device);
    try {
      return await evaluate();
    } finally {
      await swapAverages(this.#optimizer, this.#o.device);
    }
  }

  async dispose(): Promise<void> {
    await this.#runner.dispose();
  }
}

const optimizerOf = ({ optimizer, average }: TrainOptions): Optimizer => (average ? averaged(optimizer, average) : optimizer);

function checkOptions(options: TrainOptions): void {
  for (const name of ["steps", "pauseAt", "accumulate", "checkpointEvery", "evaluateEvery", "keep", "skipLimit"] as const) {
    const value = options[name];
    if (value !== undefined && !(Number.isInteger(value) && value >= 1))
      throw new EspalierError("bad-option", `train: ${name} must be a whole number of at least 1, got ${value}.`);
  }
  if (!(options.data.batchesPerEpoch >= 1))
    throw new EspalierError("empty-data", "train: the data have no batch, so there is nothing to learn from. Give at least one example.");
}

/** Checkpoints know variables by their names. */
function refuseDuplicates(variables: readonly Variable[]): void {
  const seen = new Set<string>();
  for (const { name } of variables) {
    if (seen.has(name)) throw new EspalierError("duplicate-name", `Two variables of the run are called "${name}"; rename one.`);
    seen.add(name);
  }
}
