/** A Hugging Face directory → a model with its weights. float32 weights stay in their file and are mapped from there; 16-bit ones are widened once. */
import { join } from "node:path";
import { type Checkpoint, matchTensors, openCheckpoint, readStorage, toFloat32 } from "../checkpoints/index.ts";
import { EspalierError, type FileStorage, isFloat, type Storage } from "../graph/index.ts";
import { floats, type Module } from "../nn/index.ts";
import { type LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification } from "./llama.ts";
import { readLlamaConfig } from "./read-config.ts";

/** Tables that old checkpoints carry along and that follow from the configuration. */
const derived = /rotary_emb\.inv_freq$/;

/**
 * Loads a language model. Nothing is frozen: freeze what is not to be trained, and it becomes a constant that all sessions share.
 *
 * @throws EspalierError `checkpoint-missing`, `unsupported-model`, `bad-config`, `unsupported-rope`, `checkpoint-mismatch`, `checkpoint-dtype`
 */
export function loadCausalLM(directory: string): LlamaForCausalLM {
  const checkpoint = openCheckpoint(directory);
  const model = new LlamaForCausalLM(configOf(checkpoint));
  if (!model.lm_head) checkTiedHead(checkpoint);
  fill(model, checkpoint, model.lm_head ? [] : [/^lm_head\.weight$/]);
  return model;
}

/**
 * Loads a classifier. A directory of a language model will do: its head is left out and the classification head is freshly initialised.
 *
 * @param labels the classes in the order of the head's outputs
 * @throws EspalierError as {@link loadCausalLM}, and `labels-mismatch` where the checkpoint names other classes
 */
export function loadSequenceClassifier(
  directory: string,
  labels: readonly string[],
  options: { seed?: number } = {},
): LlamaForSequenceClassification {
  const checkpoint = openCheckpoint(directory);
  const config = configOf(checkpoint);
  const trained = checkpoint.tensors.has("score.weight");
  if (trained) checkLabels(config, labels, directory);
  const model = new LlamaForSequenceClassification(config, labels.length, options.seed);
  fill(model, checkpoint, [/^lm_head\.weight$/], trained ? [] : ["score.weight"]);
  return model;
}

const configOf = (checkpoint: Checkpoint): LlamaConfig => readLlamaConfig(checkpoint.config, join(checkpoint.directory, "config.json"));

function fill(model: Module, { directory, tensors }: Checkpoint, allowExtra: readonly RegExp[], fresh: readonly string[] = []): void {
  const parameters = new Map([...model.namedParameters()].filter(([name]) => !fresh.includes(name)));
  try {
    matchTensors(new Map([...parameters].map(([name, p]) => [name, p.shape])), tensors, { allowExtra: [derived, ...allowExtra] });
  } catch (cause) {
    if (!(cause instanceof EspalierError)) throw cause;
    throw new EspalierError(cause.code, `${directory}: ${cause.message}`, { cause });
  }
  for (const [name, parameter] of parameters) parameter.storage = asFloat32(name, tensors.get(name)!);
}

function asFloat32(name: string, storage: FileStorage): Storage {
  if (storage.dtype === "float32") return storage;
  if (!isFloat(storage.dtype)) {
    throw new EspalierError(
      "checkpoint-dtype",
      `${storage.file}: the weight "${name}" is ${storage.dtype}. Weights must be float32, float16, bfloat16 or float64: use a checkpoint that is not quantised.`,
    );
  }
  return floats(storage.shape, toFloat32(storage.dtype, readStorage(storage)));
}

/** Some tools write a tied head out as well. The start of the two tells a copy from a head that was trained apart, at the cost of one page. */
function checkTiedHead({ directory, tensors }: Checkpoint): void {
  const head = tensors.get("lm_head.weight");
  const embedding = tensors.get("model.embed_tokens.weight");
  if (!head || !embedding || head.dtype !== embedding.dtype) return;
  const start = (storage: FileStorage) => {
    const length = Math.min(storage.byteLength, 4096);
    return Buffer.from(readStorage({ ...storage, dtype: "uint8", shape: [length], byteLength: length }) as Uint8Array);
  };
  if (start(head).equals(start(embedding))) return;
  throw new EspalierError(
    "checkpoint-mismatch",
    `${directory}: config.json ties the head to the embedding ("tie_word_embeddings"), but lm_head.weight holds other values than model.embed_tokens.weight. Set "tie_word_embeddings": false if the head was trained apart, or remove lm_head.weight.`,
  );
}

function checkLabels(config: LlamaConfig, labels: readonly string[], directory: string): void {
  const named = config.id2label;
  if (typeof named !== "object" || named === null) return;
  const known = Object.entries(named as Record<string, unknown>)
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, label]) => String(label));
  // transformers' placeholders name nothing.
  if (known.every((label, i) => label === `LABEL_${i}`) || (known.length === labels.length && known.every((l, i) => l === labels[i])))
    return;
  throw new EspalierError(
    "labels-mismatch",
    `${directory}: its classification head was trained for the labels ${known.join(", ")}, in this order, not for ${labels.join(", ")}. Give the labels as the checkpoint has them, or start from a model without a head.`,
  );
}
