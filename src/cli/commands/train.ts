import { join, relative } from "node:path";
import { Command, Option } from "commander";
import { writeJson } from "../../checkpoints/index.ts";
import { EspalierError, elementCount } from "../../graph/index.ts";
import { type DecoderModel, saveModel } from "../../models/index.ts";
import { type Module, QuantizedLinear } from "../../nn/index.ts";
import type { Device } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { applyWeights, type Method } from "../../train/method.ts";
import { adamW } from "../../train/optimizers/index.ts";
import { RunDirectory } from "../../train/run-directory.ts";
import { schedule } from "../../train/schedules.ts";
import { taskKind } from "../../train/tasks/table.ts";
import type { Task } from "../../train/tasks/task.ts";
import { train } from "../../train/trainer.ts";
import { environment } from "../config/environment.ts";
import { addRunOptions } from "../config/flags.ts";
import { type GivenFlags, resolveRun, type TrainFlags } from "../config/resolve-run.ts";
import { recordedRunOptions } from "../config/run-options.ts";
import { fingerprints } from "../fingerprints.ts";
import { chosenMethods } from "../method-choice.ts";
import { modelDirectory } from "../model-directory.ts";
import { checkLength } from "../options.ts";
import { checkWritable, chooseRun, prepareRun } from "../run-choice.ts";
import { Interrupted, type Interruption, interruption } from "../signals.ts";
import { recordFile } from "../task-record.ts";
import { formatBytes, formatCount, formatDuration, formatPercent, Terminal } from "../terminal.ts";
import { prepareTask } from "../training-task.ts";

export type { TrainFlags };

/** What `train --json` prints. */
export interface TrainSummary {
  task: string;
  metric: string;
  baseMetric: number;
  finalMetric: number;
  before: Readonly<Record<string, number>>;
  after: Readonly<Record<string, number>>;
  majorityAccuracy?: number;
  evalLossBefore: number;
  evalLossAfter: number;
  steps: number;
  trainableParameters: number;
  totalParameters: number;
  tokensPerSecond: number;
  seconds: number;
  peakMemoryMB: number;
  /** Directory of what was trained: the adapter, or the whole model where no adapter was asked for. */
  adapter: string;
}

export function trainCommand(): Command {
  const command = new Command("train").description("Adapt a pre-trained model to your data.");
  return addRunOptions(command, { headings: true, without: "defaults" })
    .option("--config <file>", "options of the run (default: espalier.config.ts, if there is one)")
    .option("--no-config", "read no configuration")
    .option("--resume [run]", "continue from the run's newest checkpoint, with the options that it was started with")
    .addOption(new Option("--replace", "replace the run that the directory holds").conflicts("resume"))
    .action(async (given: GivenFlags) => {
      const terminal = new Terminal();
      const { flags, config } = await resolveRun(given);
      if (config) terminal.line(`Options from ${relative(process.cwd(), config.file) || config.file}.`);
      const summary = await runTrain(flags, terminal);
      if (flags.json) terminal.json(summary);
    });
}

/** The options of `espalier train` from arguments, with all defaults and without a configuration, for programs that run it themselves. */
export async function parseTrainFlags(args: readonly string[]): Promise<TrainFlags> {
  const command = trainCommand()
    .exitOverride()
    .action(() => {});
  const given = command.parse([...args], { from: "user" }).opts<GivenFlags>();
  return (await resolveRun({ ...given, config: false })).flags;
}

/** The whole of `espalier train`. */
export async function runTrain(flags: TrainFlags, terminal: Terminal): Promise<TrainSummary> {
  chooseRun(flags); // a run that must stay is told of before a download
  const directory = await modelDirectory(flags.model);
  const interrupt = interruption(() => {
    terminal.line("Stopping after this step; what was trained is saved. Press Ctrl-C again to stop at once.");
    terminal.showCursor();
  });
  try {
    return await trainAndMeasure(flags, directory, terminal, interrupt);
  } finally {
    interrupt.dispose();
    terminal.stopProgress();
  }
}

async function trainAndMeasure(flags: TrainFlags, directory: string, terminal: Terminal, interrupt: Interruption): Promise<TrainSummary> {
  const started = Date.now();
  checkBaseDtype(flags);
  const run = chooseRun(flags);
  const local = { ...flags, model: directory };
  const device = cpu(flags.threads === undefined ? {} : { threads: flags.threads });
  const task = await prepareTask(local, device, terminal);
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

  checkWritable(run);
  const sha256 = fingerprints(local);
  const resume = prepareRun(run, local, sha256);
  if (flags.resume && !resume) terminal.line(`${run} has no checkpoint yet: the run begins anew.`);
  // An untrained prompt is not the base by itself.
  const start = "decoder" in model && (model.decoder as DecoderModel).virtualTokens > 0 ? "start" : "base";
  const before = await evaluate(task, start, terminal, interrupt);
  const perEpoch = Math.max(1, Math.floor(task.train.batchesPerEpoch / flags.accumulate));
  const steps = flags.steps ?? Math.max(1, Math.round((flags.epochs ?? 1) * perEpoch));
  const bar = terminal.progress("train", steps);
  const stepsStarted = Date.now();
  let firstStep: number | undefined;
  const result = await train({
    model,
    objective: task.objective,
    data: task.train,
    device,
    methods,
    optimizer: adamW({ learningRate: flags.learningRate, weightDecay: flags.weightDecay }),
    schedule: schedule(flags.schedule, { warmup: flags.warmup }),
    steps,
    accumulate: flags.accumulate,
    seed: flags.seed,
    directory: run,
    resume,
    baseline: before,
    checkpointEvery: flags.checkpointEvery,
    evaluateEvery: flags.evaluateEvery,
    ...(flags.evaluateEvery && { evaluate: () => task.evaluate() }),
    keep: flags.keep,
    config: { options: recordedRunOptions(flags), sha256, environment: environment() },
    signal: interrupt.signal,
    onStep({ step, loss, tokensPerSecond, memory }) {
      firstStep ??= step;
      const left = ((Date.now() - stepsStarted) / 1000 / (step - firstStep + 1)) * (steps - step);
      bar.update(
        step,
        `loss ${loss.toFixed(3)}  ${formatCount(Math.round(tokensPerSecond))} tokens/s  ${formatDuration(left)} left  ${formatBytes(memory)}`,
      );
    },
    onEvaluation: (step, metrics) => terminal.line(`step ${step}: held-out ${formatMetrics(metrics)}`),
  });
  bar.stop();
  if (result.interrupted) {
    const how = result.checkpoint ? `Checkpoint: ${result.checkpoint}.` : "Nothing was trained yet.";
    terminal.line(`Stopped at step ${result.steps} of ${steps}. ${how} Continue with --run ${run} --resume.`);
    throw new Interrupted();
  }

  const saved = await save(run, task, methods, { base: flags.model, source: local.model, device });
  terminal.line(`Saved ${saved} (${formatDuration((Date.now() - started) / 1000)} in all).`);
  const after = await evaluate(task, "adapted", terminal, interrupt);
  new RunDirectory(run).logEvaluation(result.steps, after);
  await task.dispose();
  return {
    task: task.name,
    metric: task.metric,
    baseMetric: before[task.metric]!,
    finalMetric: after[task.metric]!,
    before,
    after,
    ...(task.majority && { majorityAccuracy: task.majority.accuracy }),
    evalLossBefore: before.loss!,
    evalLossAfter: after.loss!,
    steps: result.steps,
    trainableParameters,
    totalParameters,
    tokensPerSecond: Math.round(result.tokensPerSecond),
    seconds: (Date.now() - started) / 1000,
    peakMemoryMB: Math.round(result.peakMemory / 1e6),
    adapter: saved,
  };
}

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

/** Saves what was trained into `adapter/`, or the whole model into `trained-model/` when no method has a format of its own. Returns the directory. */
async function save(
  run: string,
  { model, record }: Task,
  methods: readonly Method[],
  { base, source, device }: { base: string; source: string; device: Device },
): Promise<string> {
  const adapted = methods.some((method) => method.save);
  const directory = join(run, adapted ? "adapter" : "trained-model");
  const context = { model, base, parameters: model.trainableParameters(), device };
  for (const method of methods) await method.save?.(directory, context);
  if (!adapted) saveModel(directory, model, { source, ...taskKind(record.task)?.saved?.(record) });
  writeJson(join(directory, recordFile), record);
  return directory;
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

const formatMetrics = (metrics: Readonly<Record<string, number>>): string =>
  Object.entries(metrics)
    .map(([name, v]) => `${name} ${v.toFixed(4)}`)
    .join("  ");
