/** A Hugging Face directory, opened as what its family makes of it: what loading is for every task. */
import { type Checkpoint, matchTensors, openCheckpoint, readStorage } from "../checkpoints/index.ts";
import { blaming, EspalierError, type FileStorage, isFloat, type Storage, show } from "../graph/index.ts";
import type { Module } from "../nn/index.ts";
import { builderOf, familyOf } from "./families/index.ts";
import type { Family, Task } from "./family.ts";

/** A checkpoint, and the family that it is of. */
export interface Opened<T extends Task> {
  family: Family;
  config: unknown;
  build: NonNullable<Family[T]>;
  checkpoint: Checkpoint;
}

/** Opens a directory for a task; nothing is read yet. */
export function openFamily<T extends Task>(directory: string, task: T): Opened<T> {
  const checkpoint = openCheckpoint(directory);
  const file = checkpoint.configFile;
  const family = familyOf(checkpoint.config, file);
  const build = builderOf(family, task, file);
  return {
    family,
    config: family.readConfig(checkpoint.config, file),
    build: ((...given: unknown[]) => blaming(file, () => (build as (...given: unknown[]) => Module)(...given))) as typeof build,
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

export interface FillOptions {
  /** A tensor that needs no place. */
  unused?: string;
  /** The checkpoint may hold heads of other tasks, and lack the whole of this one's, which then keeps its initial values. */
  otherHeads?: boolean;
}

/**
 * Gives every parameter its tensor: exactly the checkpoint's tensors must find a place.
 *
 * @returns the names of the parameters that keep their initial values
 */
export function fill(
  model: Module,
  { family, checkpoint: { directory, tensors } }: Opened<Task>,
  { unused, otherHeads = false }: FillOptions,
): string[] {
  const inBase = (name: string) => name.startsWith(`${family.prefix}.`);
  const mayBeFresh = (name: string) => family.optional?.test(name) || (otherHeads && !inBase(name));
  const parameters = new Map([...model.namedParameters()].filter(([name]) => tensors.has(name) || !mayBeFresh(name)));
  blaming(directory, () =>
    matchTensors(new Map([...parameters].map(([name, p]) => [name, p.shape])), tensors, {
      allowExtra: (name) => name === unused || derived.test(name) || family.derived?.test(name) || mayBeFresh(name),
    }),
  );
  for (const [name, parameter] of parameters) parameter.storage = checkedFloat(name, tensors.get(name)!, directory);
  return Array.from(model.namedParameters(), ([name]) => name).filter((name) => !parameters.has(name));
}

/** The modules of these parameters, each once. */
export const modulesOf = (names: readonly string[]): string[] => [...new Set(names.map((name) => name.slice(0, name.lastIndexOf("."))))];

/**
 * Whether two tensors begin with the same bytes, which tells a copy from what was trained apart at the cost of one page; undefined where that cannot
 * be told.
 */
export function startAlike(a: Storage | undefined, b: Storage | undefined): boolean | undefined {
  if (a?.kind !== "file" || b?.kind !== "file" || a.dtype !== b.dtype) return undefined;
  const start = (storage: FileStorage) => {
    const length = Math.min(storage.byteLength, 4096);
    return Buffer.from(readStorage({ ...storage, dtype: "uint8", shape: [length], byteLength: length }) as Uint8Array);
  };
  return start(a).equals(start(b));
}

function checkedFloat<S extends Storage>(name: string, storage: S, directory: string): S {
  if (isFloat(storage.dtype)) return storage;
  throw new EspalierError(
    "checkpoint-dtype",
    `${storage.kind === "file" ? storage.file : directory}: the weight "${name}" is ${storage.dtype}. Weights must be float32, float16, bfloat16 or float64: use a checkpoint that is not quantised.`,
  );
}

/** The classes that a configuration names, in the order of the head's outputs; undefined where it names none, or only placeholders of transformers. */
export function namedLabels(config: unknown): string[] | undefined {
  const named = (config as { id2label?: unknown }).id2label;
  if (typeof named !== "object" || named === null) return undefined;
  const known = Object.entries(named as Record<string, unknown>)
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, label]) => (typeof label === "string" ? label : show(label)));
  return known.every((label, i) => label === `LABEL_${i}`) ? undefined : known;
}

/** @throws EspalierError `labels-mismatch` where the checkpoint's head was trained for other classes */
export function checkLabels(config: unknown, labels: readonly string[], directory: string): void {
  const known = namedLabels(config);
  if (!known || (known.length === labels.length && known.every((l, i) => l === labels[i]))) return;
  throw new EspalierError(
    "labels-mismatch",
    `${directory}: its classification head was trained for the labels ${known.join(", ")}, in this order, not for ${labels.join(", ")}. Give the labels as the checkpoint has them, or start from a model without a head.`,
  );
}
