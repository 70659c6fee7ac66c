import { existsSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { Command, Option } from "commander";
import { writeJson } from "../../checkpoints/index.ts";
import { type Example, splitExamples } from "../../data/index.ts";
import { readExamples } from "../../data/records.ts";
import { EspalierError, elementCount } from "../../graph/index.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { lora } from "../../methods/index.ts";
import { loadCausalLM, loadSequenceClassifier } from "../../models/index.ts";
import type { Device } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { applyWeights, type Method } from "../../train/method.ts";
import { adamW } from "../../train/optimizers.ts";
import { type ScheduleName, schedule, scheduleNames } from "../../train/schedules.ts";
import { classificationTask, collectLabels, defaultTemplate, initialiseHeadFromLabels } from "../../train/tasks/classification.ts";
import { languageModelingTask } from "../../train/tasks/language-modeling.ts";
import type { Task } from "../../train/tasks/task.ts";
import { train } from "../../train/trainer.ts";
import { defaultModel } from "../default-model.ts";
import { integer, list, number } from "../options.ts";
import { Interrupted, interruption } from "../signals.ts";
import { formatBytes, formatCount, formatDuration, formatPercent, Terminal } from "../terminal.ts";

export interface TrainFlags {
  model: string;
  data: string;
  evalData?: string;
  task?: "classification" | "language-modeling";
  textColumn?: string;
  labelColumn?: string;
  template: string;
  positive?: string;
  heldOut: number;
  method: "lora" | "none";
  rank: number;
  alpha?: number;
  dropout: number;
  targets: string[];
  epochs?: number;
  steps?: number;
  batchSize: number;
  accumulate: number;
  maxLength: number;
  learningRate: number;
  schedule: ScheduleName;
  warmup: number;
  weightDecay: number;
  seed: number;
  run?: string;
  resume?: boolean;
  replace?: boolean;
  checkpointEvery?: number;
  evaluateEvery?: number;
  threads?: number;
  json?: boolean;
}

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
  adapter: string;
}

export function trainCommand(): Command {
  return new Command("train")
    .description("Adapt a pre-trained model to your data.")
    .requiredOption("--data <file>", "training data: .jsonl or .csv with text (and label), or .txt")
    .option("--model <directory>", "base model in the Hugging Face layout (default: the embedded sapling)", defaultModel)
    .option("--eval-data <file>", "held-out data; without it a part of --data is held out")
    .addOption(
      new Option("--task <task>", "default: classification when the data has labels").choices(["classification", "language-modeling"]),
    )
    .option("--text-column <name>", "column or key of the text (default: text)")
    .option("--label-column <name>", "column or key of the label (default: label)")
    .option("--template <text>", "how a text is put to a classifier", defaultTemplate)
    .option("--positive <label>", "label that F1 and ROC AUC speak of (default: the rarer one)")
    .option("--held-out <share>", "share of the data held out", number(0.001, 0.9), 0.2)
    .addOption(new Option("--method <name>", "what is trained: a LoRA adapter, or everything").choices(["lora", "none"]).default("lora"))
    .option("--rank <n>", "LoRA rank", integer(1), 8)
    .option("--alpha <n>", "LoRA scale numerator (default: twice the rank)", number(0))
    .option("--dropout <p>", "LoRA dropout", number(0, 0.99), 0)
    .option("--targets <names>", "Linears to adapt, e.g. q_proj,v_proj", list, ["all-linear"])
    .option("--epochs <n>", "passes over the data (default: 1)", number(0.001))
    .option("--steps <n>", "optimizer steps, in place of --epochs", integer(1))
    .option("--batch-size <n>", "sequences per batch", integer(1), 16)
    .option("--accumulate <n>", "batches per optimizer step", integer(1), 1)
    .option("--max-length <n>", "tokens per sequence", integer(2), 256)
    .option("--learning-rate <x>", "peak learning rate", number(0), 1e-3)
    .addOption(new Option("--schedule <name>", "learning-rate schedule").choices([...scheduleNames]).default("cosine"))
    .option("--warmup <n>", "steps, or share of all steps, of linear warm-up", number(0), 0.05)
    .option("--weight-decay <x>", "decoupled weight decay", number(0), 0)
    .option("--seed <n>", "seed of split, order, initial values and dropout", integer(0), 0)
    .option("--run <directory>", "run directory (default: runs/<data file's name>)")
    .option("--resume", "continue from the run's newest checkpoint")
    .option("--replace", "replace the run that the directory holds")
    .option("--checkpoint-every <steps>", "steps between checkpoints (default: at the end)", integer(1))
    .option("--evaluate-every <steps>", "steps between evaluations (default: at the end)", integer(1))
    .option("--threads <n>", "processor threads (default: all)", integer(1))
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: TrainFlags) => {
      const terminal = new Terminal();
      const summary = await runTrain(flags, terminal);
      if (flags.json) terminal.json(summary);
    });
}

/** The flags of `espalier train` from arguments, with all defaults, for programs that run it themselves. */
export function parseTrainFlags(args: readonly string[]): TrainFlags {
  const command = trainCommand()
    .exitOverride()
    .action(() => {});
  return command.parse([...args], { from: "user" }).opts<TrainFlags>();
}

/** The whole of `espalier train`. */
export async function runTrain(flags: TrainFlags, terminal: Terminal): Promise<TrainSummary> {
  const started = Date.now();
  const run = runDirectory(flags);
  const signal = interruption(() =>
    terminal.line("Stopping after this step; a checkpoint is written. Press Ctrl-C again to stop at once."),
  );

  const device = cpu(flags.threads === undefined ? {} : { threads: flags.threads });
  const { task, majority } = await prepareTask(flags, device, terminal);
  const { model } = task;
  const methods: Method[] =
    flags.method === "lora"
      ? [
          lora({
            rank: flags.rank,
            alpha: flags.alpha ?? 2 * flags.rank,
            dropout: flags.dropout,
            targets: flags.targets.length === 1 && flags.targets[0] === "all-linear" ? "all-linear" : flags.targets,
            seed: flags.seed,
          }),
        ]
      : [];
  applyWeights(model, methods);
  const count = (parameters: readonly { shape: readonly number[] }[]) => parameters.reduce((n, p) => n + elementCount(p.shape), 0);
  const [totalParameters, trainableParameters] = [count(model.parameters()), count(model.trainableParameters())];
  terminal.line(
    `${formatCount(trainableParameters)} of ${formatCount(totalParameters)} parameters are trained (${formatPercent(trainableParameters / totalParameters, 2)}).`,
  );
  for (const note of task.notes) terminal.line(note);

  const before = await evaluate(task, "base", terminal);
  const perEpoch = Math.max(1, Math.floor(task.train.batchesPerEpoch / flags.accumulate));
  const steps = flags.steps ?? Math.max(1, Math.round((flags.epochs ?? 1) * perEpoch));
  const bar = terminal.progress("train", steps);
  const stepsStarted = Date.now();
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
    resume: flags.resume ?? false,
    checkpointEvery: flags.checkpointEvery,
    evaluateEvery: flags.evaluateEvery,
    ...(flags.evaluateEvery && { evaluate: () => task.evaluate() }),
    config: { ...flags },
    signal,
    onStep({ step, loss, tokensPerSecond, memory }) {
      const left = ((Date.now() - stepsStarted) / 1000 / step) * (steps - step);
      bar.update(
        step,
        `loss ${loss.toFixed(3)}  ${formatCount(Math.round(tokensPerSecond))} tokens/s  ${formatDuration(left)} left  ${formatBytes(memory)}`,
      );
    },
    onEvaluation: (step, metrics) => terminal.line(`step ${step}: held-out ${formatMetrics(metrics)}`),
  });
  bar.stop();
  if (result.interrupted) {
    terminal.line(`Stopped at step ${result.steps} of ${steps}. Checkpoint: ${result.checkpoint}. Continue with --resume.`);
    throw new Interrupted();
  }

  const adapter = join(run, "adapter");
  const context = { model, base: flags.model, parameters: model.trainableParameters() };
  for (const method of methods) method.save?.(adapter, context);
  writeJson(join(adapter, "espalier.json"), task.record);
  const after = await evaluate(task, "adapted", terminal);
  terminal.line(`Saved ${adapter} (${formatDuration((Date.now() - started) / 1000)} in all).`);
  await task.dispose();
  return {
    task: task.name,
    metric: task.metric,
    baseMetric: before[task.metric]!,
    finalMetric: after[task.metric]!,
    before,
    after,
    ...(majority && { majorityAccuracy: majority.accuracy }),
    evalLossBefore: before.loss!,
    evalLossAfter: after.loss!,
    steps: result.steps,
    trainableParameters,
    totalParameters,
    tokensPerSecond: Math.round(result.tokensPerSecond),
    seconds: (Date.now() - started) / 1000,
    peakMemoryMB: Math.round(result.peakMemory / 1e6),
    adapter,
  };
}

/** The run directory: never one that holds a run already, unless that run is resumed. */
function runDirectory(flags: TrainFlags): string {
  const taken = (path: string) => existsSync(join(path, "run.json"));
  if (flags.run !== undefined) {
    if (taken(flags.run) && !flags.resume)
      throw new EspalierError("run-exists", `${flags.run} holds a run already. Continue it with --resume, or give another --run.`);
    return flags.run;
  }
  const base = join("runs", basename(flags.data).replace(/\.\w+$/, ""));
  if (flags.resume) return base;
  let path = base;
  for (let n = 2; taken(path); n++) path = `${base}-${n}`;
  return path;
}

async function evaluate(task: Task, label: string, terminal: Terminal): Promise<Readonly<Record<string, number>>> {
  const bar = terminal.progress("evaluate", 1);
  const metrics = await task.evaluate((done, of) => bar.update(done, `${label} model on held-out data`, of));
  bar.stop();
  terminal.line(`${label.padEnd(8)} ${formatMetrics(metrics)}`);
  return metrics;
}

const formatMetrics = (metrics: Readonly<Record<string, number>>): string =>
  Object.entries(metrics)
    .map(([name, v]) => `${name} ${v.toFixed(4)}`)
    .join("  ");

async function prepareTask(
  flags: TrainFlags,
  device: Device,
  terminal: Terminal,
): Promise<{ task: Task; majority?: { label: string; accuracy: number } }> {
  const columns = { textColumn: flags.textColumn, labelColumn: flags.labelColumn };
  const examples = readExamples(flags.data, columns);
  const labelled = examples[0]!.label !== undefined;
  const name = flags.task ?? (labelled ? "classification" : "language-modeling");
  if (name === "classification" && !labelled)
    throw new EspalierError(
      "no-labels",
      `${flags.data} has no labels; classification needs a label for every text (--label-column names the column).`,
    );
  const tokenizer = await tokenizerFromDirectory(flags.model);
  const { train: trainExamples, heldOut } = hold(examples, name, flags, columns, terminal);
  const common = { batchSize: flags.batchSize, seed: flags.seed, train: trainExamples, heldOut };
  if (name === "language-modeling") {
    const model = loadCausalLM(flags.model);
    checkLength(flags, model.config.max_position_embeddings);
    return { task: languageModelingTask(model, tokenizer, device, { ...common, sequenceLength: flags.maxLength }) };
  }
  const labels = collectLabels(trainExamples, heldOut);
  const model = loadSequenceClassifier(flags.model, labels);
  checkLength(flags, model.config.max_position_embeddings);
  initialiseHeadFromLabels(model, tokenizer, labels, device);
  const task = classificationTask(model, tokenizer, device, {
    ...common,
    labels,
    template: flags.template,
    maxLength: flags.maxLength,
    positive: flags.positive,
  });
  terminal.line(`Held-out majority class "${task.majority.label}": accuracy ${task.majority.accuracy.toFixed(4)}.`);
  return { task, majority: task.majority };
}

function checkLength(flags: TrainFlags, context: number): void {
  if (flags.maxLength > context)
    throw new EspalierError(
      "bad-option",
      `--max-length ${flags.maxLength} is longer than the context of ${flags.model}, ${context} tokens.`,
    );
}

function hold(
  examples: Example[],
  name: string,
  flags: TrainFlags,
  columns: object,
  terminal: Terminal,
): { train: readonly Example[]; heldOut: readonly Example[] } {
  if (flags.evalData !== undefined) return { train: examples, heldOut: readExamples(flags.evalData, columns) };
  // One long text is cut in two: its last part is held out.
  if (name === "language-modeling" && examples.length === 1) {
    const [example] = examples as [Example];
    const cut = Math.floor(example.text.length * (1 - flags.heldOut));
    return { train: [{ ...example, text: example.text.slice(0, cut) }], heldOut: [{ ...example, text: example.text.slice(cut) }] };
  }
  const { train, heldOut, duplicatesRemoved } = splitExamples(examples, { heldOut: flags.heldOut, seed: flags.seed });
  if (duplicatesRemoved > 0) terminal.line(`${duplicatesRemoved} duplicates were removed.`);
  return { train, heldOut };
}
