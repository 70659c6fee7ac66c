/** A model → a Hugging Face directory that transformers loads. */
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  findGguf,
  GgufFile,
  ggufTokenizer,
  jsonFloat,
  openCheckpoint,
  readJsonToCopy,
  readStorage,
  saveCheckpoint,
} from "../checkpoints/index.ts";
import { converted, EspalierError, type Storage } from "../graph/index.ts";
import { type Module, QuantizedLinear } from "../nn/index.ts";
import { CausalLM } from "./causal-lm.ts";
import { CtcModel } from "./ctc-model.ts";
import { poolingFiles } from "./pooling.ts";
import { Seq2SeqLM } from "./seq2seq.ts";
import { SentenceEncoder } from "./text-encoder.ts";

export interface SaveModelOptions {
  /** What the model was loaded from: its configuration is kept, unknown keys included; tokenizer (a GGUF file's too), processor and licence are copied. */
  source?: string;
  /** Element type of the weights. bf16 takes half the space and rounds to 8 bits of mantissa. Default f32. */
  dtype?: "f32" | "bf16";
  /** The classes of a classifier, in the order of the head's outputs. */
  labels?: readonly string[];
  /** What transformers computes the loss of a head on sequences with, where it is not one label for each. */
  problemType?: "regression" | "multi_label_classification";
}

/** A model that says what transformers calls it. */
export type SaveableModel = Module & { readonly architecture: string; readonly config: Readonly<Record<string, unknown>> };

const copied =
  /^(tokenizer\.json|tokenizer\.model|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|normalizer\.json|(sentence_bert_config|config_sentence_transformers)\.json|chat_template\.(jinja|json)|generation_config\.json|(pre)?processor_config\.json|licen[cs]e.*)$/i;

/**
 * Saves the values that the parameters hold (`parameter.storage`; what a device trained must be persisted first) as model.safetensors, with
 * config.json and the tokenizer's files.
 *
 * @throws EspalierError `save-onto-source`, `checkpoint-missing`, `disk-full`, `not-writable`
 */
export function saveModel(directory: string, model: SaveableModel, options: SaveModelOptions = {}): void {
  const dtype = options.dtype ?? "f32";
  const tensors = new Map<string, Storage>();
  const stored = (storage: Storage) => converted(storage, dtype === "bf16" ? "bfloat16" : "float32");
  for (const [name, { storage }] of model.namedParameters()) {
    refuseOwnSource(storage, directory);
    tensors.set(name, stored(storage));
  }
  // A quantised weight is no parameter. It is saved as what it stands for, computed when it is written.
  for (const [path, layer] of model.namedModules()) {
    if (!(layer instanceof QuantizedLinear)) continue;
    const load = () => layer.storedWeight(layer.denseWeight((variable) => readStorage(variable.storage)));
    tensors.set(`${path}.weight`, stored({ kind: "lazy", dtype: "float32", shape: layer.storedShape, load }));
  }
  saveCheckpoint(directory, { config: configToSave(model, options, dtype), tensors, extraFiles: filesToCopy(options.source, model) });
}

/** Mapped weights must not lose their file while a model uses them. */
function refuseOwnSource(storage: Storage, directory: string): void {
  if (storage.kind === "converted") refuseOwnSource(storage.of, directory);
  if (
    storage.kind !== "file" ||
    storage.file.endsWith(".gguf") ||
    !existsSync(directory) ||
    dirname(storage.file) !== realpathSync(directory)
  )
    return;
  throw new EspalierError(
    "save-onto-source",
    `${directory}: the model's weights are mapped from ${storage.file}, which saving here would replace. Save into another directory.`,
  );
}

/** The configuration that is saved with a model. */
export function configToSave(
  model: SaveableModel,
  { source, labels, problemType }: SaveModelOptions,
  dtype: "f32" | "bf16",
): Record<string, unknown> {
  const kept: Record<string, unknown> = source === undefined ? ownConfig(model) : sourceConfig(source);
  kept.architectures = [model.architecture];
  // transformers 5 says "dtype"; older versions know "torch_dtype" only, and newer ones read both.
  kept["dtype" in kept ? "dtype" : "torch_dtype"] = dtype === "bf16" ? "bfloat16" : "float32";
  if (model instanceof CausalLM) {
    kept.vocab_size = model.config.vocab_size;
    if (model.head && model.config.tie_word_embeddings === true) kept.tie_word_embeddings = false;
  }
  if (model instanceof CtcModel) kept.vocab_size = model.config.vocab_size;
  if (problemType) kept.problem_type = problemType;
  if (labels) {
    kept.id2label = Object.fromEntries(labels.map((label, i) => [String(i), label]));
    kept.label2id = Object.fromEntries(labels.map((label, i) => [label, i]));
  }
  return kept;
}

/** Numbers that transformers 5 takes as floats only. */
const floatFields: ReadonlySet<string> = new Set([
  ...["attn_logit_softcapping", "final_logit_softcapping", "contrastive_logits_temperature", "diversity_loss_weight", "layerscale_value"],
  ...["decoder_layerdrop", "encoder_layerdrop", "init_std", "initializer_factor", "initializer_range"],
  ...["layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"],
]);

/** What the model knows of its configuration, as its file is to say it. */
const ownConfig = ({ config }: SaveableModel): Record<string, unknown> =>
  JSON.parse(
    JSON.stringify(config, (key, value) => (typeof value === "number" && floatFields.has(key) ? jsonFloat(value) : value)),
  ) as Record<string, unknown>;

function sourceConfig(source: string): Record<string, unknown> {
  if (findGguf(source) === undefined) return readJsonToCopy(join(source, "config.json"));
  return openCheckpoint(source).config as Record<string, unknown>;
}

/** What is saved beside a model, by path. */
export function filesToCopy(source: string | undefined, model: SaveableModel): Record<string, string | Uint8Array> {
  return { ...copiedFiles(source, model), ...(model instanceof SentenceEncoder && poolingFiles(model)) };
}

function copiedFiles(source: string | undefined, model: SaveableModel): Record<string, string | Uint8Array> {
  if (source === undefined) return {};
  const gguf = findGguf(source);
  if (gguf !== undefined) {
    const { tokenizer, config } = ggufTokenizer(GgufFile.open(gguf));
    return { "tokenizer.json": JSON.stringify(tokenizer), "tokenizer_config.json": JSON.stringify(config, null, 2) };
  }
  const names = readdirSync(source).filter((name) => copied.test(name) && statSync(join(source, name)).isFile());
  const writes = model instanceof CausalLM || model instanceof Seq2SeqLM;
  const wanted = writes ? names : names.filter((name) => name !== "generation_config.json");
  return Object.fromEntries(wanted.map((name) => [name, readFileSync(join(source, name))]));
}
