import { z } from "zod";
import { chatFormatNames } from "../../inputs/index.ts";
import { trainingMethods } from "../../methods/catalogue.ts";
import { baseDtypes } from "../../models/index.ts";
import { computeDtypes } from "../../ops/index.ts";
import { deviceNames } from "../../runtime/open-device.ts";
import { optimizerNames } from "../../train/optimizers/index.ts";
import { groupRuleSchema } from "../../train/parameter-groups.ts";
import { scheduleNames } from "../../train/schedules.ts";
import { taskNames } from "../../train/tasks/table.ts";
import { parseData } from "../data-sources.ts";
import { defaultModel } from "../default-model.ts";
import { list } from "../options.ts";
import { json, namedValues } from "./named-values.ts";
import { between, oneOf, option, type RunOption, text, toggle, whole } from "./run-option.ts";

/*
 * The options of a training run, once. The flags of `espalier train`, the keys of espalier.config.ts, what `espalier init` writes, what run.json
 * records and what may change on resume all follow from these tables.
 */

const sourcesMessage = "It must be a path, or a list of paths and of { path, weight } with weights above 0.";
const weightMessage = "The weight of a source must be a number above 0.";
const weightedSource = z.strictObject({ path: text(), weight: z.number(weightMessage).gt(0, weightMessage) });

export const dataOptions = {
  data: option(z.union([text(), z.array(z.union([text(), weightedSource])).min(1)], sourcesMessage).optional(), {
    help: "training data: .jsonl, .csv or .parquet of texts, conversations or paths; .txt; a directory of such files or of images. Several times for several sources, <file>:<weight> with a weight",
    value: "<file>",
    parse: parseData,
    byDefault: "required",
    path: true,
    free: true, // the content must be the same, wherever it lies
  }),
  evalData: option(text().optional(), {
    help: "held-out data; without it a part of the data is held out",
    value: "<file>",
    path: true,
    free: true,
  }),
  heldOut: option(between(0.000001, 0.9).optional(), {
    help: "share of the data held out",
    value: "<share>",
    byDefault: "0.2, with --streaming 0.01",
  }),
  streaming: option(toggle().optional(), {
    help: "read classification, language-modeling and chat data piece by piece, for files larger than memory",
  }),
  shuffleWindow: option(whole(1).optional(), {
    help: "records that --streaming shuffles together",
    value: "<n>",
    byDefault: "16384, or as many as take 64 MiB",
  }),
  task: option(oneOf(taskNames).optional(), {
    help: "what is learnt",
    value: "<task>",
    byDefault: "as data and model say",
  }),
  textColumn: option(text().optional(), { help: "column or key of the text", value: "<name>", byDefault: "text" }),
  labelColumn: option(text().optional(), { help: "column or key of the label", value: "<name>", byDefault: "label" }),
  tokensColumn: option(text().optional(), { help: "column or key of the list of words", value: "<name>", byDefault: "tokens" }),
  sourceColumn: option(text().optional(), {
    help: "column or key of the text to answer",
    value: "<name>",
    byDefault: "source, or text beside summary",
  }),
  targetColumn: option(text().optional(), { help: "column or key of its answer", value: "<name>", byDefault: "target, or summary" }),
  imageColumn: option(text().optional(), { help: "column or key of the image's path", value: "<name>", byDefault: "image" }),
  audioColumn: option(text().optional(), { help: "column or key of the WAV file's path", value: "<name>", byDefault: "audio" }),
  template: option(text().optional(), {
    help: "how a text is put to the model, e.g. 'summarize: {text}'",
    value: "<text>",
    byDefault: "{text}; for classifiers on decoders with a line 'Label:' after it",
  }),
  maskShare: option(between(0.01, 1).optional(), { help: "share of the tokens that masked-lm hides", value: "<share>", byDefault: "0.15" }),
  wholeWords: option(toggle().optional(), { help: "masked-lm hides the parts of a word together" }),
  scale: option(between(0.001).optional(), {
    help: "sentence-similarity: factor on the cosines, 1/temperature",
    value: "<x>",
    byDefault: "20",
  }),
  symmetric: option(toggle().optional(), { help: "sentence-similarity: anchors are chosen for positives, too" }),
  chunk: option(whole(1).optional(), {
    help: "sentence-similarity: texts encoded at one time; less memory for large batches, the same gradient",
    value: "<n>",
    byDefault: "the whole batch",
  }),
  preferenceLoss: option(oneOf(["sigmoid", "hinge", "ipo"]).optional(), {
    help: "loss of preferences",
    value: "<name>",
    byDefault: "sigmoid",
  }),
  beta: option(between(1e-6).optional(), { help: "how dear it is to leave the reference, in preferences", value: "<x>", byDefault: "0.1" }),
  labelSmoothing: option(between(0, 0.49).optional(), {
    help: "share of preferences that are taken to be the wrong way round",
    value: "<share>",
    byDefault: "0",
  }),
  teacher: option(text().optional(), {
    help: "model to learn from as well, for language-modeling and classification: a directory, or a name on the Hub",
    value: "<model>",
    path: true,
  }),
  teacherShare: option(between(0, 1).optional(), { help: "share of the loss that is the teacher's", value: "<share>", byDefault: "0.5" }),
  temperature: option(between(0.01).optional(), { help: "temperature of the teacher's distributions", value: "<x>", byDefault: "2" }),
  chatFormat: option(oneOf(chatFormatNames).optional(), {
    help: "built-in chat format in place of the model's own template",
    value: "<name>",
    byDefault: "the model's template",
  }),
  positive: option(text().optional(), { help: "label that F1 and ROC AUC speak of", value: "<label>", byDefault: "the rarer one" }),
  maxLength: option(whole(2).default(256), { help: "tokens per sequence", value: "<n>" }),
  packing: option(toggle().optional(), { help: "several conversations or texts to a row, each read on its own" }),
  buckets: option(z.union([z.literal("auto"), z.array(whole(1)).min(1)], 'It must be "auto" or a list of lengths.').optional(), {
    help: "lengths of training batches, e.g. 64,128,256, or auto: those with the least padding",
    value: "<lengths>",
    parse: (given) => (given === "auto" ? given : list(given).map(Number)),
    byDefault: "a quarter, a half and all of --max-length",
  }),
  maxShapes: option(whole(1).optional(), { help: "most lengths that --buckets auto chooses", value: "<n>", byDefault: "4" }),
  cache: option(toggle().default(true), { help: "keep no token ids for the next run", free: true }),
};

const modelOptions = {
  model: option(text().default(defaultModel), {
    help: "base model: a directory, a .gguf file, or a name on the Hugging Face Hub",
    value: "<model>",
    byDefault: "the embedded sapling",
    path: true,
    free: true, // as the data
  }),
  baseDtype: option(oneOf(baseDtypes).default("f32"), {
    help: "how the frozen base is kept; int8 is the fastest, int4 and nf4 the smallest",
    value: "<type>",
  }),
};

const adapters = trainingMethods.filter(({ card }) => card.family === "adapters").map(({ card }) => card.slug);

export const methodOptions = {
  method: option(oneOf([...adapters, "none"]).default("lora"), {
    help: "what is trained: an adapter (espalier methods lists them), or none for the whole model",
    value: "<name>",
  }),
  rank: option(whole(1).default(8), { help: "LoRA rank", value: "<n>" }),
  alpha: option(between(1e-6).optional(), { help: "LoRA scale numerator", value: "<n>", byDefault: "twice the rank" }),
  dropout: option(between(0, 0.99).default(0), { help: "LoRA dropout", value: "<p>" }),
  targets: option(z.array(text(), "It must be a list of names.").default(["all-linear"]), {
    help: "layers that LoRA adapts, e.g. q_proj,v_proj",
    value: "<names>",
    parse: list,
    byDefault: "all-linear",
  }),
  methodOptions: option(z.record(z.string(), z.unknown(), "It must be an object.").optional(), {
    help: "further options of the method, as name=value (several times) or JSON; espalier methods <name> lists them",
    value: "<options>",
    parse: namedValues,
  }),
};

const trainingOptions = {
  epochs: option(between(0.001).optional(), { help: "passes over the data", value: "<n>", byDefault: "1" }),
  steps: option(whole(1).optional(), { help: "optimizer steps, in place of epochs", value: "<n>" }),
  batchSize: option(whole(1).default(16), { help: "sequences per batch", value: "<n>" }),
  accumulate: option(whole(1).default(1), { help: "batches per optimizer step", value: "<n>" }),
  optimizer: option(oneOf(optimizerNames).default("adamw"), { help: "rule of the updates", value: "<name>" }),
  optimizerOptions: option(z.record(z.string(), z.unknown(), "It must be an object.").optional(), {
    help: "further options of the optimizer, as name=value (several times) or JSON",
    value: "<options>",
    parse: namedValues,
  }),
  learningRate: option(between(1e-12).default(1e-3), { help: "peak learning rate", value: "<x>" }),
  schedule: option(oneOf(scheduleNames).default("cosine"), { help: "learning-rate schedule", value: "<name>" }),
  scheduleOptions: option(z.record(z.string(), z.unknown(), "It must be an object.").optional(), {
    help: "further options of the schedule, as name=value (several times) or JSON: floor, decay, cycles, power",
    value: "<options>",
    parse: namedValues,
  }),
  warmup: option(between(0).default(0.05), { help: "steps, or share of all steps, of linear warm-up", value: "<n>" }),
  weightDecay: option(between(0).default(0), { help: "decoupled weight decay", value: "<x>" }),
  loraPlusRatio: option(between(1e-6).optional(), {
    help: "LoRA+: lora_B learns so many times as fast as lora_A",
    value: "<x>",
  }),
  groups: option(z.array(groupRuleSchema, "It must be a list of rules.").optional(), {
    help: 'rates, decays and steps of parameters by name, as JSON: [{"match": "*.layers.0.*", "learningRateFactor": 0.1}]',
    value: "<rules>",
    parse: json,
  }),
  average: option(between(0, 0.999999).optional(), {
    help: "decay of an exponential moving average of the weights, which is then evaluated and saved",
    value: "<decay>",
  }),
  maxGradientNorm: option(between(0).default(1), { help: "gradients are scaled down to this norm; 0: never", value: "<x>" }),
  notFinite: option(oneOf(["stop", "skip"]).default("stop"), {
    help: "what is done about a batch whose loss or gradient is not finite",
    value: "<what>",
  }),
  skipLimit: option(whole(1).default(10), { help: "skipped steps in a row that stop the run all the same", value: "<n>" }),
  rematerialise: option(toggle().default(false), {
    help: "compute each block again for its gradient: less memory, a third more time",
    free: true,
  }),
  seed: option(whole(0).default(0), { help: "seed of split, order, initial values and dropout", value: "<n>" }),
};

const directoryOptions = {
  run: option(text().optional(), {
    help: "run directory",
    value: "<directory>",
    byDefault: "runs/<data file's name>",
    path: true,
    free: true,
  }),
  checkpointEvery: option(whole(1).optional(), {
    help: "steps between checkpoints",
    value: "<steps>",
    byDefault: "at the end",
    free: true,
  }),
  keep: option(whole(1).default(2), { help: "checkpoints that are kept", value: "<n>", free: true }),
  evaluateEvery: option(whole(1).optional(), { help: "steps between evaluations", value: "<steps>", byDefault: "at the end", free: true }),
};

const machineOptions = {
  device: option(oneOf(deviceNames).default("cpu"), { help: "what computes", value: "<name>", free: true }),
  compute: option(oneOf(computeDtypes).default("float32"), {
    help: "type of the operands of matrix products; 16 bits on graphics processors only, int8 (full training) on the processor only",
    value: "<type>",
  }),
  baseline: option(toggle().default(true), { help: "do not measure the base model first", free: true }),
  report: option(toggle().default(true), { help: "write no report.md", free: true }),
  tensorboard: option(toggle().default(false), { help: "write TensorBoard's event files into the run directory", free: true }),
  profile: option(toggle().default(false), {
    help: "write where the time of five steps goes into the run directory: a table and a trace for Perfetto",
    free: true,
  }),
  threads: option(whole(1).optional(), { help: "processor threads", value: "<n>", byDefault: "all", free: true }),
  json: option(toggle().optional(), { help: "print the result as one JSON object in the last line", free: true }),
};

export const runOptions = {
  ...dataOptions,
  ...modelOptions,
  ...methodOptions,
  ...trainingOptions,
  ...directoryOptions,
  ...machineOptions,
};

/** The tables under the headings of `--help`. */
export const runOptionGroups: readonly (readonly [heading: string, options: Readonly<Record<string, RunOption>>])[] = [
  ["Data:", dataOptions],
  ["Model:", modelOptions],
  ["Method:", methodOptions],
  ["Training:", trainingOptions],
  ["Run directory:", directoryOptions],
  ["Machine and output:", machineOptions],
];

type Options = typeof runOptions;

export const runSchema = z.strictObject(
  Object.fromEntries(Object.entries(runOptions).map(([key, { schema }]) => [key, schema])) as {
    [K in keyof Options]: Options[K]["schema"];
  },
);

/** What `defineRun` takes: every option may be left out. */
export type RunConfig = z.input<typeof runSchema>;

/** The options of a run, defaults filled in. */
export type RunOptions = z.output<typeof runSchema>;

/** Those of them that a call was given or has by default, without what else the call says. */
export const recordedRunOptions = (flags: RunOptions): RunOptions =>
  Object.fromEntries(Object.entries(flags).filter(([key]) => key in runOptions)) as RunOptions;
