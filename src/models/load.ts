/** A Hugging Face directory → a model with its weights. They stay in their files: a device maps frozen float32 ones from there and widens the others when it needs them. */
import { join } from "node:path";
import { type Checkpoint, matchTensors, openCheckpoint, readStorage } from "../checkpoints/index.ts";
import { EspalierError, type FileStorage, isFloat } from "../graph/index.ts";
import type { Module } from "../nn/index.ts";
import type { CausalLM, SequenceClassifier } from "./causal-lm.ts";
import { builderOf, familyOf } from "./families.ts";
import type { Family, Task } from "./family.ts";

/**
 * Loads a language model. Nothing is frozen: freeze what is not to be trained, and it becomes a constant that all sessions share.
 *
 * @throws EspalierError `checkpoint-missing`, `unsupported-model`, `unsupported-task`, `bad-config`, `unsupported-rope`, `checkpoint-mismatch`, `checkpoint-dtype`
 */
export function loadCausalLM(directory: string): CausalLM {
  const opened = open(directory, "causalLM");
  const model: CausalLM = opened.build(opened.config);
  if (!model.head) checkTiedHead(opened.checkpoint, model.decoder.embedding.weight.name);
  fill(model, opened, model.head ? {} : { unused: "lm_head.weight" });
  return model;
}

/**
 * Loads a classifier. A directory of a language model will do: its head is left out and the classification head is freshly initialised.
 *
 * @param labels the classes in the order of the head's outputs
 * @throws EspalierError as {@link loadCausalLM}, and `labels-mismatch` where the checkpoint names other classes
 */
export function loadSequenceClassifier(directory: string, labels: readonly string[], options: { seed?: number } = {}): SequenceClassifier {
  const opened = open(directory, "sequenceClassifier");
  const model: SequenceClassifier = opened.build(opened.config, labels.length, options.seed);
  model.headIsFresh = !opened.checkpoint.tensors.has(`${model.head.path}.weight`);
  if (!model.headIsFresh) checkLabels(opened.config, labels, directory);
  fill(model, opened, { otherHeads: true });
  return model;
}

interface Opened<T extends Task> {
  family: Family;
  config: unknown;
  build: NonNullable<Family[T]>;
  checkpoint: Checkpoint;
}

function open<T extends Task>(directory: string, task: T): Opened<T> {
  const checkpoint = openCheckpoint(directory);
  const file = join(checkpoint.directory, "config.json");
  const family = familyOf(checkpoint.config, file);
  const build = builderOf(family, task, file);
  return {
    family,
    config: family.readConfig(checkpoint.config, file),
    build,
    checkpoint: { ...checkpoint, tensors: named(checkpoint, family) },
  };
}

/** Tensors under the names that the family's parameters have. */
function named({ tensors }: Checkpoint, { prefix, rename }: Family): Checkpoint["tensors"] {
  const bare = prefix !== "" && ![...tensors.keys()].some((name) => name.startsWith(`${prefix}.`));
  if (!bare && !rename) return tensors;
  return new Map(
    [...tensors].map(([name, storage]) => {
      const full = bare ? `${prefix}.${name}` : name;
      return [rename?.(full) ?? full, storage];
    }),
  );
}

/** Tables that old checkpoints carry along and that follow from the configuration. */
const derived = /rotary_emb\.inv_freq$/;

interface FillOptions {
  /** A tensor that needs no place. */
  unused?: string;
  /** The checkpoint may hold heads of other tasks, and lack the whole of this one's, which then keeps its initial values. */
  otherHeads?: boolean;
}

/** Gives every parameter its tensor. */
function fill(
  model: Module,
  { family, checkpoint: { directory, tensors } }: Opened<Task>,
  { unused, otherHeads = false }: FillOptions,
): void {
  const inBase = (name: string) => name.startsWith(`${family.prefix}.`);
  const parameters = new Map([...model.namedParameters()].filter(([name]) => !otherHeads || inBase(name) || tensors.has(name)));
  try {
    matchTensors(new Map([...parameters].map(([name, p]) => [name, p.shape])), tensors, {
      allowExtra: (name) => name === unused || derived.test(name) || family.derived?.test(name) || (otherHeads && !inBase(name)),
    });
  } catch (cause) {
    if (!(cause instanceof EspalierError)) throw cause;
    throw new EspalierError(cause.code, `${directory}: ${cause.message}`, { cause });
  }
  for (const [name, parameter] of parameters) parameter.storage = checkedFloat(name, tensors.get(name)!);
}

function checkedFloat(name: string, storage: FileStorage): FileStorage {
  if (isFloat(storage.dtype)) return storage;
  throw new EspalierError(
    "checkpoint-dtype",
    `${storage.file}: the weight "${name}" is ${storage.dtype}. Weights must be float32, float16, bfloat16 or float64: use a checkpoint that is not quantised.`,
  );
}

/** Some tools write a tied head out as well. The start of the two tells a copy from a head that was trained apart, at the cost of one page. */
function checkTiedHead({ directory, tensors }: Checkpoint, embeddingName: string): void {
  const head = tensors.get("lm_head.weight");
  const embedding = tensors.get(embeddingName);
  if (!head || !embedding || head.dtype !== embedding.dtype) return;
  const start = (storage: FileStorage) => {
    const length = Math.min(storage.byteLength, 4096);
    return Buffer.from(readStorage({ ...storage, dtype: "uint8", shape: [length], byteLength: length }) as Uint8Array);
  };
  if (start(head).equals(start(embedding))) return;
  throw new EspalierError(
    "checkpoint-mismatch",
    `${directory}: config.json ties the head to the embedding ("tie_word_embeddings"), but lm_head.weight holds other values than ${embeddingName}. Set "tie_word_embeddings": false if the head was trained apart, or remove lm_head.weight.`,
  );
}

function checkLabels(config: unknown, labels: readonly string[], directory: string): void {
  const named = (config as { id2label?: unknown }).id2label;
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
