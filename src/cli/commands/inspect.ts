import { writeFileSync } from "node:fs";
import { Command, InvalidArgumentError } from "commander";
import { EspalierError, elementCount, type Traced } from "../../graph/index.ts";
import { type BaseDtype, setBaseDtype } from "../../models/index.ts";
import { QuantizedLinear } from "../../nn/index.ts";
import { encode } from "../../onnx/index.ts";
import { MatmulPeak } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { type AvailableMemory, availableMemory } from "../../train/available-memory.ts";
import type { StepEstimate } from "../../train/estimate.ts";
import { type MemorySettings, memoryProposals, type Proposal } from "../../train/memory-advice.ts";
import { applyWeights } from "../../train/method.ts";
import { MethodSet } from "../../train/method-set.ts";
import { optimizerByName } from "../../train/optimizers/index.ts";
import { type StepOptions, traceStep } from "../../train/step.ts";
import { estimateTraining } from "../../train/training-memory.ts";
import { addRunOptions } from "../config/flags.ts";
import { methodOptions, type RunOptions } from "../config/run-options.ts";
import { openSubject, type StepSubject } from "../inspect/step-subject.ts";
import { chosenMethods } from "../method-choice.ts";
import { modelDirectory } from "../model-directory.ts";
import { checkLength } from "../options.ts";
import { formatBytes, formatCount, formatPercent, Terminal } from "../terminal.ts";

const methodKeys = Object.keys(methodOptions) as (keyof typeof methodOptions)[];
const stepKeys = ["task", "baseDtype", "batchSize", "maxLength", "accumulate", "optimizer", "optimizerOptions", "rematerialise"] as const;

interface InspectFlags extends Pick<RunOptions, "model" | (typeof methodKeys)[number] | (typeof stepKeys)[number]> {
  memory?: number;
  graph?: string;
  json?: boolean;
}

/** Of the speed of float32 products, what a whole step usually reaches, by the type of the base: see the benches memory and base-dtype. */
const shareOfPeak: Readonly<Record<BaseDtype, number>> = { f32: 0.75, bf16: 0.7, f16: 0.7, int8: 1.05, int4: 0.65, nf4: 0.7 };

/** `2GB`, `500 MB` or a number of bytes. */
function parseBytes(text: string): number {
  const [, amount, unit = ""] = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*$/i.exec(text) ?? [];
  const power = "kmgt".indexOf(unit.charAt(0).toLowerCase()) + 1;
  const bytes =
    Number(amount) * (unit.toLowerCase().includes("i") ? 1024 : 1000) ** (unit === "" || unit.toLowerCase() === "b" ? 0 : power);
  if (amount === undefined || !(bytes > 0)) throw new InvalidArgumentError("It must be an amount of memory, as 2GB or 1500MB.");
  return bytes;
}

export function inspectCommand(): Command {
  const command = new Command("inspect").description(
    "Show a model's size and what a training step would cost, before anything runs, and what to change where it does not fit.",
  );
  return addRunOptions(command, { keys: ["model", ...methodKeys, ...stepKeys] })
    .option("--memory <amount>", "memory that the run may take, e.g. 2GB (default: what is available)", parseBytes)
    .option("--graph <file>", "write the training step as an .onnx file")
    .option("--json", "print the result as one JSON object in the last line")
    .action(inspect);
}

async function inspect(flags: InspectFlags): Promise<void> {
  const terminal = new Terminal();
  const directory = await modelDirectory(flags.model);
  const settings = settingsOf(flags);
  const step = await openStep(flags, directory, settings);
  const { subject, options, estimate, total, trainable } = step;
  const peak = await MatmulPeak.create(cpu(), { size: 1024, products: 4 });
  await peak.measure();
  const flopsPerSecond = await peak.measure();
  await peak.dispose();
  const held = process.memoryUsage.rss();
  const needOf = (estimate: StepEstimate, { baseDtype }: MemorySettings) => ({
    bytes: held + estimate.totalBytes,
    seconds: estimate.flops / (flopsPerSecond * shareOfPeak[baseDtype as BaseDtype]),
  });
  const { bytes, seconds } = needOf(estimate, settings);
  const available: AvailableMemory = flags.memory === undefined ? availableMemory() : { bytes: flags.memory, bound: "machine" };
  const fits = bytes <= available.bytes;

  const count = subject.size.count * flags.accumulate;
  const { unit } = subject.size;
  const batch = unit === "images" ? `${flags.batchSize} images` : `${flags.batchSize} × ${flags.maxLength} tokens`;
  terminal.line(`model            ${flags.model} (${describe(subject)})`);
  terminal.line(`parameters       ${formatCount(total)}`);
  terminal.line(`trainable        ${formatCount(trainable)} (${formatPercent(trainable / total, 2)})`);
  terminal.line(
    `one step         ${flags.accumulate > 1 ? `${flags.accumulate} batches of ` : ""}${batch}, ${(estimate.flops / 1e9).toFixed(1)} GFLOP`,
  );
  terminal.line(`estimated time   ${seconds.toFixed(2)} s per step, ${formatCount(Math.round(count / seconds))} ${unit}/s`);
  terminal.line(
    `estimated memory ${formatBytes(bytes)} at the peak: weights ${formatBytes(estimate.frozenBytes)} (mapped), trained state ${formatBytes(estimate.stateBytes)}, intermediate values ${formatBytes(estimate.activationBytes)}, program ${formatBytes(estimate.programBytes)}, the process itself ${formatBytes(held)}`,
  );
  const bound =
    flags.memory !== undefined ? "may be taken" : available.bound === "container" ? "are left of this container's limit" : "are available";
  terminal.line(`                 ${formatBytes(available.bytes)} ${bound}: ${fits ? "it fits" : "it does not fit"}`);

  const proposals = fits ? [] : await proposalsFor(flags, directory, settings, available.bytes, needOf);
  for (const line of proposalLines(proposals, available.bytes)) terminal.line(line);
  if (flags.graph) writeGraph(flags.graph, traceStep(subject.types, options), terminal);
  if (!flags.json) return;
  terminal.json({
    model: flags.model,
    totalParameters: total,
    trainableParameters: trainable,
    gflopPerStep: estimate.flops / 1e9,
    estimatedStepSeconds: seconds,
    estimatedMemoryMB: Math.round(bytes / 1e6),
    availableMemoryMB: Math.round(available.bytes / 1e6),
    fits,
    ...(!fits && {
      proposals: proposals.map((p) => ({
        flags: p.flags,
        estimatedMemoryMB: Math.round(p.bytes / 1e6),
        estimatedStepSeconds: p.seconds,
        fits: p.bytes <= available.bytes,
      })),
    }),
    ...(flags.graph && { graph: flags.graph }),
  });
}

const settingsOf = (flags: InspectFlags): MemorySettings => ({
  batchSize: flags.batchSize,
  accumulate: flags.accumulate,
  maxLength: flags.maxLength,
  rematerialise: flags.rematerialise,
  baseDtype: flags.baseDtype,
  stateDtype: flags.optimizer === "adamw" ? ((flags.optimizerOptions?.stateDtype as "int8" | undefined) ?? "float32") : undefined,
});

interface OpenStep {
  subject: StepSubject;
  options: StepOptions;
  estimate: StepEstimate;
  total: number;
  trainable: number;
}

/** The step that `espalier train` would run with these settings. */
async function openStep(flags: InspectFlags, directory: string, settings: MemorySettings): Promise<OpenStep> {
  const shape = { batchSize: settings.batchSize, maxLength: settings.maxLength ?? flags.maxLength };
  const subject = openSubject(directory, flags.task, shape);
  const { model } = subject;
  if (subject.size.unit === "tokens" && model.contextLength !== undefined)
    checkLength(shape.maxLength, model as { contextLength: number }, flags.model);
  setBaseDtype(model, settings.baseDtype as BaseDtype);
  const quantized = [...model.namedModules()].reduce(
    (n, [, m]) => n + (m instanceof QuantizedLinear ? m.inFeatures * m.outFeatures : 0),
    0,
  );
  const methods = await chosenMethods(flags, directory, 0);
  applyWeights(model, methods);
  const parameters = model.trainableParameters();
  const set = new MethodSet(methods, parameters);
  const optimizer = optimizerByName(flags.optimizer, {
    learningRate: 1e-3,
    ...flags.optimizerOptions,
    ...(settings.stateDtype && settings.stateDtype !== "float32" && { stateDtype: settings.stateDtype }),
  }).create(set.groups);
  const options: StepOptions = {
    objective: set.objective(subject.objective),
    optimizer,
    maxGradientNorm: 1,
    rematerialise: settings.rematerialise,
  };
  const estimate = estimateTraining(subject.types, options, settings.accumulate);
  const count = (list: readonly { shape: readonly number[] }[]) => list.reduce((n, p) => n + elementCount(p.shape), 0);
  return { subject, options, estimate, total: quantized + count(model.parameters()), trainable: count(parameters) };
}

async function proposalsFor(
  flags: InspectFlags,
  directory: string,
  settings: MemorySettings,
  limit: number,
  needOf: (estimate: StepEstimate, settings: MemorySettings) => { bytes: number; seconds: number },
): Promise<Proposal[]> {
  return memoryProposals({
    settings,
    frozenBase: flags.method !== "none",
    limit,
    async need(changed) {
      const { estimate } = await openStep(flags, directory, changed);
      return needOf(estimate, changed);
    },
  });
}

function proposalLines(proposals: readonly Proposal[], limit: number): string[] {
  if (proposals.length === 0) return [];
  const shown = proposals.slice(0, 6);
  const width = Math.max(...shown.map(({ flags }) => flags.length));
  const some = proposals.some(({ bytes }) => bytes <= limit);
  return [
    some ? "what to change, the fastest first:" : "nothing alone makes it fit; what needs least:",
    ...shown.map(({ flags, bytes, seconds }) => {
      const time = `${seconds.toFixed(2)} s per step`;
      return `  ${flags.padEnd(width)}  ${formatBytes(bytes)}, ${time}${bytes <= limit ? "" : " (does not fit)"}`;
    }),
  ];
}

/** What kind of model it is, and its sizes as far as its configuration names them. */
function describe({ model: { config } }: StepSubject): string {
  const numberOf = (...keys: string[]) => keys.map((key) => config[key]).find((v): v is number => typeof v === "number");
  const layers = numberOf("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers");
  const width = numberOf("hidden_size", "d_model", "n_embd", "dim");
  const vocabulary = numberOf("vocab_size");
  const context = numberOf("max_position_embeddings", "n_positions");
  return [
    String(config.model_type),
    ...(layers && width ? [`${layers} layers of width ${width}`] : []),
    ...(vocabulary ? [`vocabulary ${formatCount(vocabulary)}`] : []),
    ...(context ? [`context ${context}`] : []),
  ].join(", ");
}

function writeGraph(file: string, traced: Traced, terminal: Terminal): void {
  const device = cpu();
  const { bytes } = encode(traced, { provider: "onnx", values: (variable, dtype) => device.platform.load(variable.storage, dtype) });
  try {
    writeFileSync(file, bytes);
  } catch (cause) {
    throw new EspalierError("not-writable", `${file} cannot be written: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
  terminal.line(`graph            ${file} (${formatBytes(bytes.length)}, standard ONNX operators only)`);
}
