import { existsSync } from "node:fs";
import { openCheckpoint, parseHubId, readPeftAdapter } from "../checkpoints/index.ts";
import { Decoder, Seq2SeqDecoder } from "../generate/index.ts";
import { EspalierError } from "../graph/index.ts";
import type { Tokenizer } from "../inputs/index.ts";
import { type LoadAdapterOptions, loadAdapter } from "../methods/index.ts";
import {
  type BaseDtype,
  CausalLM,
  type Family,
  familyOf,
  loadSeq2SeqLM,
  Seq2SeqLM,
  SequenceClassifier,
  setBaseDtype,
} from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import type { ClassificationRecord } from "../train/tasks/classification.ts";
import type { Loaded } from "../train/tasks/kind.ts";
import { languageModeling } from "../train/tasks/language-modeling.ts";
import { type LoadedText, loadText } from "../train/tasks/loaded-text.ts";
import { type AnyTaskKind, type TaskRecord, taskKind } from "../train/tasks/table.ts";
import { defaultModel } from "./default-model.ts";
import { modelDirectory } from "./model-directory.ts";
import { readTaskRecord, recordFile } from "./task-record.ts";
import { vocabularyNote } from "./vocabulary-note.ts";

/** A model ready for use: a base model, with or without an adapter on it. */
export interface Adapted {
  /** The directory of the base model. */
  base: string;
  loaded: Loaded & { readonly tokenizer?: Tokenizer };
  /** What it was trained for; undefined for models and adapters from elsewhere. */
  use: ModelUse | undefined;
}

/** A task, and how the model is used for it. */
export interface ModelUse {
  kind: AnyTaskKind;
  record: TaskRecord;
}

export interface OpenOptions extends LoadAdapterOptions {
  baseDtype?: BaseDtype | undefined;
  /** How the model is used. Default: as its record says, and without one it writes text. */
  use?(base: string, family: Family, config: unknown, record: TaskRecord | undefined): ModelUse;
}

/** Opens an adapter on its base model (or on `model`), or a model by itself. A model that was trained or merged as a whole knows its task. */
export async function openAdapted(
  { adapter, model }: { adapter?: string | undefined; model?: string | undefined },
  options: OpenOptions = {},
): Promise<Adapted> {
  if (adapter === undefined) {
    const directory = await modelDirectory(model ?? defaultModel);
    return open(directory, readTaskRecord(directory), options);
  }
  const directory = await modelDirectory(adapter);
  const record = readTaskRecord(directory);
  const opened = await open(model === undefined ? await baseOf(directory) : await modelDirectory(model), record, options);
  for (const note of loadAdapter(opened.loaded.model, directory, options).notes) say(note);
  opened.loaded.model.freeze();
  return opened;
}

/** Opens what continues texts: an adapter on its base (or on `model`), or a model, which is the embedded one unless told. */
export async function openLanguageModel(
  model?: string,
  adapter?: string,
  baseDtype?: BaseDtype,
): Promise<{ model: CausalLM; tokenizer: Tokenizer; base: string }> {
  const { loaded, base, use } = await openAdapted({ adapter, model }, { baseDtype });
  if (loaded.model instanceof CausalLM) return { model: loaded.model, tokenizer: loaded.tokenizer!, base };
  throw new EspalierError("not-a-language-model", `${adapter ?? model} ${whatItDoes(loaded, use)}`);
}

/** Opens what writes text: a language model continues a prompt, an encoder–decoder answers it. */
export async function openTextGenerator(
  device: Device,
  model?: string,
  adapter?: string,
  baseDtype?: BaseDtype,
): Promise<{ generator: Decoder | Seq2SeqDecoder; tokenizer: Tokenizer; kind: "seq2seq" | "language-modeling" }> {
  const { loaded, use } = await openAdapted({ adapter, model }, { baseDtype });
  const tokenizer = loaded.tokenizer!;
  if (loaded.model instanceof Seq2SeqLM)
    return { generator: await Seq2SeqDecoder.create(device, loaded.model), tokenizer, kind: "seq2seq" };
  if (loaded.model instanceof CausalLM)
    return { generator: await Decoder.create(device, loaded.model), tokenizer, kind: "language-modeling" };
  throw new EspalierError("not-a-language-model", `${adapter ?? model} ${whatItDoes(loaded, use)}`);
}

/** Opens a classifier of texts: an adapter that was trained as one, or a whole model. */
export async function openClassifier(
  given: { adapter?: string | undefined; model?: string | undefined },
  baseDtype?: BaseDtype,
): Promise<LoadedText<SequenceClassifier> & { record: ClassificationRecord }> {
  const { use, loaded } = await openAdapted(given, { baseDtype });
  if (use?.record.task === "classification") return { ...(loaded as LoadedText<SequenceClassifier>), record: use.record };
  throw new EspalierError(
    "not-a-classifier",
    `${given.adapter ?? given.model} is not a classifier: it was not trained by espalier train on labelled texts.`,
  );
}

function whatItDoes({ model }: Loaded, use: ModelUse | undefined): string {
  if (model instanceof Seq2SeqLM) return "answers texts and does not continue them. Use espalier generate.";
  if (model instanceof SequenceClassifier && use?.kind.name === "classification")
    return "is a classifier; it writes no text. Use espalier classify.";
  return `was trained for ${use?.kind.name} (${use?.kind.summary}); it writes no text. Use espalier ${use?.kind.predictor ? "predict" : "eval"}.`;
}

/** What is said about a model stays out of a file that results are written to. */
export const say = (note: string | undefined) => void (note === undefined || process.stderr.write(`${note}\n`));

/** Nothing trains the model: its weights are constants, mapped from their files. */
async function open(base: string, record: TaskRecord | undefined, { baseDtype = "f32", use: choose }: OpenOptions): Promise<Adapted> {
  const { config, configFile, tensors } = openCheckpoint(base);
  const family = familyOf(config, configFile);
  const use = choose?.(base, family, config, record) ?? (record && { kind: taskKind(record.task)!, record });
  if (!use) refuseClassifier(base, config, tensors);
  const loaded: Adapted["loaded"] = use ? await use.kind.load(base, use.record) : await loadWriter(base, family);
  const { model, tokenizer } = loaded;
  model.freeze();
  setBaseDtype(model, baseDtype);
  if (tokenizer && (model instanceof CausalLM || model instanceof SequenceClassifier)) say(vocabularyNote(tokenizer, model));
  return { base, loaded, use };
}

/** A model that nobody says anything about writes text. */
const loadWriter = (base: string, family: Family): Promise<Adapted["loaded"]> =>
  family.seq2seq ? loadText(base, loadSeq2SeqLM) : languageModeling.load(base, { task: "language-modeling", sequenceLength: 1 });

function refuseClassifier(base: string, config: unknown, tensors: ReadonlyMap<string, unknown>): void {
  const { architectures } = config as { architectures?: unknown };
  const classifies = Array.isArray(architectures) && architectures.some((name) => String(name).endsWith("ForSequenceClassification"));
  if (!classifies && !tensors.has("score.weight")) return;
  throw new EspalierError(
    "no-record",
    `${base} is a classifier, but no ${recordFile} there says how its labels are called and how a text is put to it. Only classifiers of espalier train and espalier merge can be used.`,
  );
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
