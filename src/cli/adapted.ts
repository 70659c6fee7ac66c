import { existsSync } from "node:fs";
import { openCheckpoint, parseHubId, readPeftAdapter } from "../checkpoints/index.ts";
import { Decoder, Seq2SeqDecoder } from "../generate/index.ts";
import { EspalierError } from "../graph/index.ts";
import type { Tokenizer } from "../inputs/index.ts";
import { tokenizerFromDirectory } from "../inputs/text/tokenizer-directory.ts";
import { type LoadAdapterOptions, loadAdapter } from "../methods/index.ts";
import type { CausalLM, SequenceClassifier } from "../models/causal-lm.ts";
import {
  type BaseDtype,
  familyOf,
  loadCausalLM,
  loadSeq2SeqLM,
  loadSequenceClassifier,
  type Seq2SeqLM,
  setBaseDtype,
  type TextSource,
} from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import type { TaskRecord } from "../train/tasks/task.ts";
import { defaultModel } from "./default-model.ts";
import { modelDirectory } from "./model-directory.ts";
import { readTaskRecord, recordFile } from "./task-record.ts";
import { vocabularyNote } from "./vocabulary-note.ts";

/** A model ready for use: a base model, with or without an adapter on it. */
export type Adapted = { tokenizer: Tokenizer; base: string } & (
  | { kind: "seq2seq"; model: Seq2SeqLM<TextSource>; record?: undefined }
  | { kind: "classification"; model: SequenceClassifier; record: Extract<TaskRecord, { task: "classification" }> }
  | { kind: "language-modeling"; model: CausalLM; record: Exclude<TaskRecord, { task: "classification" }> | undefined }
);

/** Opens an adapter on its base model (or on `model`). */
export async function openAdapted(
  adapter: string,
  model?: string,
  baseDtype?: BaseDtype,
  options: LoadAdapterOptions = {},
): Promise<Adapted> {
  const directory = await modelDirectory(adapter);
  const record = readTaskRecord(directory);
  const opened = await open(model === undefined ? await baseOf(directory) : await modelDirectory(model), record, baseDtype);
  for (const note of loadAdapter(opened.model, directory, options).notes) say(note);
  opened.model.freeze();
  return opened;
}

/** Opens a model without an adapter; one that was trained or merged into a classifier knows its task. */
export async function openModel(model: string, baseDtype?: BaseDtype): Promise<Adapted> {
  const directory = await modelDirectory(model);
  return open(directory, readTaskRecord(directory), baseDtype);
}

/** Opens what continues texts: an adapter on its base (or on `model`), or a model, which is the embedded one unless told. */
export async function openLanguageModel(
  model?: string,
  adapter?: string,
  baseDtype?: BaseDtype,
): Promise<Extract<Adapted, { kind: "language-modeling" }>> {
  const opened = adapter === undefined ? await openModel(model ?? defaultModel, baseDtype) : await openAdapted(adapter, model, baseDtype);
  if (opened.kind === "language-modeling") return opened;
  const what =
    opened.kind === "seq2seq"
      ? "answers texts and does not continue them. Use espalier generate"
      : "is a classifier; it cannot continue texts. Use espalier classify";
  throw new EspalierError("not-a-language-model", `${adapter ?? model} ${what}.`);
}

/** Opens what writes text: a language model continues a prompt, an encoder–decoder answers it. */
export async function openTextGenerator(
  device: Device,
  model?: string,
  adapter?: string,
  baseDtype?: BaseDtype,
): Promise<{ generator: Decoder | Seq2SeqDecoder; tokenizer: Tokenizer; kind: "seq2seq" | "language-modeling" }> {
  const opened = adapter === undefined ? await openModel(model ?? defaultModel, baseDtype) : await openAdapted(adapter, model, baseDtype);
  const { kind, tokenizer } = opened;
  if (kind === "classification")
    throw new EspalierError("not-a-language-model", `${adapter ?? model} is a classifier; it writes no text. Use espalier classify.`);
  const generator = kind === "seq2seq" ? await Seq2SeqDecoder.create(device, opened.model) : await Decoder.create(device, opened.model);
  return { generator, tokenizer, kind };
}

/** What is said about a model stays out of a file that results are written to. */
export const say = (note: string | undefined) => void (note === undefined || process.stderr.write(`${note}\n`));

/** Nothing trains the model: its weights are constants, mapped from their files. */
async function open(base: string, record: TaskRecord | undefined, baseDtype: BaseDtype = "f32"): Promise<Adapted> {
  const checkpoint = openCheckpoint(base); // before the tokenizer, so that a wrong directory is reported as such
  if (record?.task === "classification") {
    const tokenizer = await tokenizerFromDirectory(base);
    const model = loadSequenceClassifier(base, record.labels).freeze();
    setBaseDtype(model, baseDtype);
    say(vocabularyNote(tokenizer, model));
    return { kind: "classification", tokenizer, base, model, record };
  }
  const { architectures } = checkpoint.config as { architectures?: unknown };
  const classifies = Array.isArray(architectures) && architectures.some((name) => String(name).endsWith("ForSequenceClassification"));
  if (classifies || checkpoint.tensors.has("score.weight"))
    throw new EspalierError(
      "no-record",
      `${base} is a classifier, but no ${recordFile} there says how its labels are called and how a text is put to it. Only classifiers of espalier train and espalier merge can be used.`,
    );
  const tokenizer = await tokenizerFromDirectory(base);
  if (familyOf(checkpoint.config, checkpoint.configFile).seq2seq) {
    const model = loadSeq2SeqLM(base).freeze();
    setBaseDtype(model, baseDtype);
    return { kind: "seq2seq", tokenizer, base, model };
  }
  const model = loadCausalLM(base).freeze();
  setBaseDtype(model, baseDtype);
  say(vocabularyNote(tokenizer, model));
  return { kind: "language-modeling", tokenizer, base, model, record };
}

/** Where the base model of an adapter lies, as the adapter names it: by a path, or by a name on the Hub and perhaps a revision. */
export async function baseOf(adapter: string): Promise<string> {
  const { base_model_name_or_path: named, revision } = readPeftAdapter(adapter).config;
  if (named && existsSync(named)) return named;
  if (named?.endsWith("models/sapling")) return defaultModel; // the embedded model, wherever this package is installed now
  if (!named || !parseHubId(named))
    throw new EspalierError(
      "no-base",
      `${adapter}: its base model ${named ? `"${named}" is not a directory here` : "is not named in adapter_config.json"}. Give its directory with --model.`,
    );
  try {
    return await modelDirectory(typeof revision === "string" ? `${named}@${revision}` : named);
  } catch (error) {
    if (!(error instanceof EspalierError)) throw error;
    throw new EspalierError(error.code, `${adapter}: its base model cannot be had. ${error.message} Or give its directory with --model.`, {
      cause: error,
    });
  }
}
