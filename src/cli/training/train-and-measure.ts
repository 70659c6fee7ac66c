import { existsSync } from "node:fs";
import { join } from "node:path";
import { EspalierError, elementCount } from "../../graph/index.ts";
import type { DecoderModel } from "../../models/index.ts";
import { type Module, QuantizedLinear } from "../../nn/index.ts";
import { openDevice } from "../../runtime/open-device.ts";
import { availableMemory } from "../../train/available-memory.ts";
import { memoryAdvice } from "../../train/memory-advice.ts";
import { applyWeights } from "../../train/method.ts";
import { optimizerByName } from "../../train/optimizers/index.ts";
import { loraPlus, parameterGroups } from "../../train/parameter-groups.ts";
import { StepProfiler } from "../../train/profile/index.ts";
import { RunDirectory } from "../../train/run-directory.ts";
import { lockRun, type RunLock, refuseLocked } from "../../train/run-lock.ts";
import { schedule } from "../../train/schedules.ts";
import type { Task } from "../../train/tasks/task.ts";
import type { TrainResult } from "../../train/train-options.ts";
import { train } from "../../train/trainer.ts";
import { trainingMemory } from "../../train/training-memory.ts";
import { environment } from "../config/environment.ts";
import type { TrainFlags } from "../config/resolve-run.ts";
import { recordedRunOptions } from "../config/run-options.ts";
import { runInputs } from "../fingerprints.ts";
import { chosenMethods } from "../method-choice.ts";
import { checkLength } from "../options.ts";
import { readMetrics } from "../report/metrics-file.ts";
import { type SamplePair, writeReport } from "../report/report.ts";
import { type Sample, sampler } from "../report/samples.ts";
import { checkWritable, chooseRun, prepareRun } from "../run-choice.ts";
import { Interrupted, type Interruption } from "../signals.ts";
import { formatCount, formatDuration, formatPercent, type Terminal } from "../terminal.ts";
import { prepareTask } from "../training-task.ts";
import { formatMetrics, RunDisplay } from "./display.ts";
import { saveTrained } from "./save-trained.ts";
import type { Pause, TrainSummary } from "./summary.ts";

interface Context {
  /** Of the base model. */
  directory: string;
  terminal: Terminal;
  /** From now on Ctrl-C ends the run in good order. */
  listen(): Interruption;
  pause?: Pause | undefined;
}

/** A run from its data to its report. Its directory is locked from the first thing that is written to the last. */
export async function trainAndMeasure(flags: TrainFlags, context: Context): Promise<TrainSummary> {
  let held: RunLock | undefined;
  try {
    return await trainLocked(flags, context, (run) => {
      held = lockRun(run);
      return held;
    });
  } finally {
    held?.release();
  }
}

async function trainLocked(
  flags: TrainFlags,
  { directory, terminal, listen, pause }: Context,
  lockOf: (run: string) => RunLock,
): Promise<TrainSummary> {
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  checkBaseDtype(flags);
  const run = chooseRun(flags);
  // What stands in the way is said before data and model are read. The lock itself is taken after them: until then there is nothing to guard.
  if (existsSync(run)) checkWritable(run);
  refuseLocked(run);
  const local = { ...flags, model: directory };
  const device = await openDevice(flags.device, { compute: flags.compute, ...(flags.threads !== undefined && { threads: flags.threads }) });
  const prepared = await prepareTask(local, device, terminal);
  const interrupt = listen();
  const { task } = prepared;
  const { model } = task;
  const methods = await chosenMethods(flags, directory, flags.seed);
  const quantized = quantizedElements(model);
  applyWeights(model, methods);
  // Virtual tokens take their part of the context.
  if (task.length !== undefined) checkLength(task.length, model as { contextLength?: number }, flags.model);
  const [totalParameters, trainableParameters] = [quantized + elements(model.parameters()), elements(model.trainableParameters())];
  terminal.line(
    `${formatCount(trainableParameters)} of ${formatCount(totalParameters)} parameters are trained (${formatPercent(trainableParameters / totalParameters, 2)}).`,
  );
  for (const note of task.notes) terminal.line(note);

  // What is wrong with these is said before anything is measured.
  const optimizer = optimizerByName(flags.optimizer, {
    learningRate: flags.learningRate,
    weightDecay: flags.weightDecay,
    ...flags.optimizerOptions,
  });
  const groups = [...(flags.groups ?? []), ...(flags.loraPlusRatio === undefined ? [] : loraPlus(flags.loraPlusRatio))];
  parameterGroups(groups, [...model.trainableParameters(), ...(task.objective.parameters ?? [])]);
  const rates = schedule(flags.schedule, { warmup: flags.warmup, ...flags.scheduleOptions });
  checkWritable(run);
  const lock = lockOf(run);
  const inputs = runInputs(local, prepared.hashes);
  const checkpoint = prepareRun(run, local, inputs);
  const resume = checkpoint !== undefined;
  if (flags.resume && !resume) terminal.line(`${run} has no checkpoint yet: the run begins anew.`);
  const before = await baseline();
  const asked = flags.report && !pause ? sampler(prepared, device) : undefined;
  const answersBefore = await asked?.outputs();
  const perEpoch = Math.max(1, Math.floor(task.train.batchesPerEpoch / flags.accumulate));
  const steps = flags.steps ?? Math.max(1, Math.round((flags.epochs ?? 1) * perEpoch));
  const pauseAt = pause && Math.max(1, Math.round(pause.until * steps));
  const settings = { model, objective: task.objective, data: task.train, methods, optimizer, ...stepSettings(flags) };
  const warning = memoryAdvice(await trainingMemory(settings), availableMemory());
  if (warning) terminal.line(warning);
  const display = new RunDisplay(terminal, { from: checkpoint?.step ?? 0, steps, directory: run, tensorboard: flags.tensorboard });
  const machine = environment();
  const profiler = flags.profile ? new StepProfiler(device, { directory: join(run, "profile") }) : undefined;
  const result = await train({
    ...settings,
    device,
    schedule: rates,
    groups,
    ...(flags.average !== undefined && { average: { decay: flags.average } }),
    steps,
    ...(pauseAt !== undefined && { pauseAt }),
    ...(pause?.from !== undefined && { branchFrom: pause.from }),
    notFinite: flags.notFinite,
    skipLimit: flags.skipLimit,
    seed: flags.seed,
    directory: run,
    lock,
    resume,
    ...(before && { baseline: before }),
    checkpointEvery: flags.checkpointEvery,
    evaluateEvery: flags.evaluateEvery,
    ...(flags.evaluateEvery && { evaluate: () => task.evaluate() }),
    keep: flags.keep,
    config: { options: recordedRunOptions(flags), ...inputs, environment: machine },
    signal: interrupt.signal,
    onStep: (report) => {
      profiler?.step(report);
      display.step(report);
    },
    onEvaluation: (step, metrics) => display.evaluation(step, metrics),
    onNotice: (message) => terminal.line(message),
  });
  display.stop();
  if (profiler) {
    const files = await profiler.finish();
    terminal.line(
      files ? `Profile: ${files.table}, and ${files.trace} for ui.perfetto.dev.` : "No profile: it needs three steps at least.",
    );
  }
  const paused = result.steps === pauseAt && result.steps < steps;
  if (result.interrupted && !paused) {
    display.close();
    const how = result.checkpoint ? `Checkpoint: ${result.checkpoint}.` : "Nothing was trained yet.";
    terminal.line(`Stopped at step ${result.steps} of ${steps}. ${how} Continue with --resume ${run}.`);
    throw new Interrupted();
  }

  const saved = paused ? result.checkpoint! : await saveTrained(run, task, methods, { base: flags.model, source: local.model, device });
  if (!paused) terminal.line(`Saved ${saved} (${formatDuration(seconds())} in all).`);
  const after = await evaluate(task, "adapted", terminal, interrupt);
  new RunDirectory(run).logEvaluation(result.steps, after);
  display.evaluated(result.steps, after);
  display.close();
  await task.dispose();
  const summary: TrainSummary = {
    task: task.name,
    metric: task.metric,
    higherIsBetter: task.higherIsBetter,
    ...(before && { baseMetric: before[task.metric]! }),
    finalMetric: after[task.metric]!,
    ...(before && { before }),
    after,
    ...(task.majority && { majorityAccuracy: task.majority.accuracy }),
    ...(before && { evalLossBefore: before.loss! }),
    evalLossAfter: after.loss!,
    steps: result.steps,
    trainableParameters,
    totalParameters,
    tokensPerSecond: Math.round(result.tokensPerSecond),
    seconds: seconds(),
    timeShares: timeShares(result),
    peakMemoryMB: Math.round(result.peakMemory / 1e6),
    adapter: saved,
  };
  if (!flags.report || paused) return summary;
  const samples = pairs(asked?.samples ?? [], answersBefore ?? [], (await asked?.outputs()) ?? []);
  const report = await writeReport(run, {
    options: recordedRunOptions(flags),
    summary,
    environment: machine,
    sha256: { ...inputs.sha256 },
    samples,
  });
  terminal.line(`Report: ${report}`);
  return { ...summary, report };

  /** The base model's metrics: measured, or as the run that goes on has measured them. */
  async function baseline(): Promise<Readonly<Record<string, number>> | undefined> {
    const known = resume ? readMetrics(run).evaluations.find(({ step }) => step === 0)?.metrics : undefined;
    if (known || !flags.baseline) return known;
    // An untrained prompt is not the base by itself.
    const label = "decoder" in model && (model.decoder as DecoderModel).virtualTokens > 0 ? "start" : "base";
    return evaluate(task, label, terminal, interrupt);
  }
}

const stepSettings = ({ accumulate, maxGradientNorm, rematerialise }: TrainFlags) => ({
  accumulate,
  maxGradientNorm: maxGradientNorm === 0 ? Number.POSITIVE_INFINITY : maxGradientNorm,
  rematerialise,
});

const pairs = (samples: readonly Sample[], before: readonly string[], after: readonly string[]): SamplePair[] =>
  samples.map((sample, i) => ({ ...sample, before: before[i]!, after: after[i]! }));

function checkBaseDtype({ method, baseDtype }: TrainFlags): void {
  if (method !== "none" || baseDtype === "f32") return;
  throw new EspalierError(
    "bad-option",
    `--base-dtype ${baseDtype} is for a frozen base, but --method none trains the base itself. Leave it out, or give --method lora.`,
  );
}

const elements = (parameters: readonly { shape: readonly number[] }[]): number => parameters.reduce((n, p) => n + elementCount(p.shape), 0);

/** Weights that are no parameters. An adapter hides the layer that it stands on. */
const quantizedElements = (model: Module): number =>
  [...model.namedModules()].reduce((n, [, m]) => n + (m instanceof QuantizedLinear ? m.inFeatures * m.outFeatures : 0), 0);

function timeShares({ milliseconds: { data, session, rest } }: TrainResult): TrainSummary["timeShares"] {
  const all = data + session + rest || 1;
  return { data: data / all, session: session / all, rest: rest / all };
}

async function evaluate(task: Task, label: string, terminal: Terminal, interrupt: Interruption): Promise<Readonly<Record<string, number>>> {
  const bar = terminal.progress("evaluate", 1);
  const metrics = await task.evaluate((done, of) => {
    interrupt.check(); // an evaluation has nothing to save
    bar.update(done, `${label} model on held-out data`, of);
  });
  bar.stop();
  terminal.line(`${label.padEnd(8)} ${formatMetrics(metrics)}`);
  return metrics;
}
