/** What adapters of every kind share in being read from, and written for, Hugging Face PEFT. */
import { type PeftAdapter, type PeftConfig, readPeftAdapter, unsupportedPeftOptions } from "../../checkpoints/index.ts";
import { blaming, EspalierError, fewProblems, type Storage, show } from "../../graph/index.ts";
import { CausalLM, SequenceClassifier } from "../../models/causal-lm.ts";
import { resizeTokenEmbeddings } from "../../models/resize-embeddings.ts";
import { Seq2SeqLM } from "../../models/seq2seq.ts";
import { TokenClassifier } from "../../models/text-encoder.ts";
import type { EmbeddingLayer, Module, Parameter } from "../../nn/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import type { MethodFactory } from "../define.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { Graft } from "./graft.ts";
import { liesIn } from "./targets.ts";

export interface LoadAdapterOptions {
  /** Whether an adapter that was made for a larger or smaller vocabulary may resize the model's embedding. Default: that is an error. */
  resize?: boolean;
}

/** An adapter that lies on a model. */
export interface LoadedAdapter {
  /** Slug of its method. */
  readonly method: string;
  readonly config: PeftConfig;
  /** What it trains. */
  readonly parameters: readonly Parameter[];
  /** What a person should know about the model now, as that its head was untied. */
  readonly notes: readonly string[];
  /** The way off and on. */
  readonly graft: Graft;
}

/** As {@link LoadedAdapter}, of an adapter that was read already; `source` names it in messages. */
export function placeAdapter(
  model: Module,
  adapter: PeftAdapter,
  source: string,
  // biome-ignore lint/suspicious/noExplicitAny: whatever the method's options are.
  method: MethodFactory<any>,
  options: LoadAdapterOptions = {},
): LoadedAdapter {
  const { config } = adapter;
  if (method.peft?.type !== config.peft_type)
    throw new EspalierError(
      "adapter-config",
      `${source}: is an adapter of the kind ${config.peft_type}, which ${method.card.slug} does not read.`,
    );
  refuseUnsupported(config, source);
  const tensors = new Map(adapter.tensors);
  const notes = fitVocabulary(model, tensors, source, options);
  model.freeze();
  const graft = new Graft(model);
  try {
    blaming(source, () => {
      method.peft!.graft(graft, config);
      takeSavedEmbeddings(graft, tensors);
      graft.fill(source, tensors);
    });
  } catch (error) {
    graft.undo();
    throw error;
  }
  return { method: method.card.slug, config, parameters: graft.parameters, notes: [...notes, ...graft.notes], graft };
}

/** What {@link Method.load} does. */
// biome-ignore lint/suspicious/noExplicitAny: whatever the method's options are.
export function loadInto(model: Module, directory: string, method: MethodFactory<any>): void {
  placeAdapter(model, readPeftAdapter(directory), directory, method);
}

function refuseUnsupported(config: PeftConfig, source: string): void {
  const unsupported = unsupportedPeftOptions(config);
  if (unsupported.length === 0) return;
  throw new EspalierError(
    "adapter-config",
    `${source}: the adapter uses ${fewProblems(unsupported.map((o) => `${o.option} = ${show(o.value)}`)).join(", ")}, which Espalier does not compute: its results would differ from PEFT's.`,
  );
}

const embeddingOf = (model: Module): EmbeddingLayer | undefined =>
  (model as { decoder?: { embedding: EmbeddingLayer } }).decoder?.embedding;

/** An adapter may have been made after tokens were added. */
function fitVocabulary(model: Module, tensors: ReadonlyMap<string, Storage>, source: string, { resize }: LoadAdapterOptions): string[] {
  const embedding = embeddingOf(model);
  if (!embedding) return [];
  const rows = tensors.get(`${embedding.path}.weight`)?.shape[0] ?? tensors.get(`${embedding.path}.lora_embedding_A`)?.shape[1];
  const vocabulary = embedding.weight.shape[0]!;
  if (rows === undefined || rows === vocabulary) return [];
  if (!resize)
    throw new EspalierError(
      "embedding-size",
      `${source}: the adapter was made for an embedding of ${rows} tokens; the model's has ${vocabulary}. Resize it: resizeTokenEmbeddings(model, ${rows}), loadAdapter(…, { resize: true }) or --resize-embeddings.`,
    );
  if (!(model instanceof CausalLM))
    throw new EspalierError(
      "embedding-size",
      `${source}: the adapter was made for an embedding of ${rows} tokens; only language models are resized.`,
    );
  resizeTokenEmbeddings(model, rows);
  return [`The embedding is resized from ${vocabulary} to ${rows} tokens, which the adapter was made for.`];
}

/** PEFT saves embeddings that were resized or adapted beside the adapter: they are the base for it. */
function takeSavedEmbeddings(graft: Graft, tensors: Map<string, Storage>): void {
  const { model } = graft;
  const embedding = embeddingOf(model);
  if (!embedding) return;
  const table = `${embedding.path}.weight`;
  const head = model instanceof CausalLM ? `${model.headPath}.weight` : undefined;
  if (head !== undefined && tensors.has(head) && model instanceof CausalLM && !model.head) {
    const [ours, theirs] = [tensors.get(table) ?? embedding.weight.storage, tensors.get(head)!];
    if (sameValues(ours, theirs)) tensors.delete(head);
    else graft.untie("the adapter has other values for each");
  }
  for (const [name, parameter] of [...model.namedParameters()])
    if ((name === table || name === head) && tensors.has(name) && !graft.places.has(name)) graft.claim(name, parameter, { trained: false });
}

function sameValues(a: Storage, b: Storage): boolean {
  if (`${a.shape}` !== `${b.shape}`) return false;
  const [x, y] = [readStorage(a, "float32") as Float32Array, readStorage(b, "float32") as Float32Array];
  return x.every((value, i) => value === y[i]);
}

const own = { LORA: /\.(lora_|token_adapter\.)/, IA3: /\.ia3_l$/ } as const;

/** What of the trained parameters belongs to an adapter on single layers, by its name in the file, and what the configuration says of it. */
export function savedParts(
  model: Module,
  trained: readonly Parameter[],
  config: PeftConfig<"LORA" | "IA3">,
): { tensors: Map<string, Storage>; config: { modules_to_save: string[] | null } } {
  const full = config.modules_to_save ?? [];
  const bias = config.peft_type === "LORA" ? config.bias : "none";
  const isTrainedBias = (name: string) =>
    name.endsWith(".bias") &&
    (bias === "all" || (bias === "lora_only" && model.module(name.slice(0, -".bias".length)) instanceof AdapterLayer));
  const parameters = trained.filter(({ name }) => own[config.peft_type].test(name) || liesIn(name, full) || isTrainedBias(name));
  // By their whole names, as those alone keep PEFT from adapting the modules as well.
  const saved = [...new Set(full.flatMap((name) => parameters.flatMap((p) => wholeName(p.name, name) ?? [])))];
  return { tensors: new Map(parameters.map((p) => [p.name, p.storage])), config: { modules_to_save: saved.length > 0 ? saved : null } };
}

/** `pre_classifier` of the ending "classifier" in `pre_classifier.weight`; undefined where the path has no such module. */
function wholeName(path: string, ending: string): string | undefined {
  const at = `${path}.`.indexOf(`${ending}.`);
  return at < 0 ? undefined : path.slice(path.lastIndexOf(".", at - 1) + 1, at + ending.length);
}

/** PEFT's name of what a model does; null where it has none, and its adapters are for any. */
export function taskType(model: Module): string | null {
  if (model instanceof CausalLM) return "CAUSAL_LM";
  if (model instanceof SequenceClassifier) return "SEQ_CLS";
  if (model instanceof TokenClassifier) return "TOKEN_CLS";
  return model instanceof Seq2SeqLM ? "SEQ_2_SEQ_LM" : null;
}
