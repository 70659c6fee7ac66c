import type { BatchSource, Example } from "../../data/index.ts";
import type { TokenCacheOptions } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import type { SaveableModel } from "../../models/index.ts";
import type { Objective } from "../objectives/index.ts";

/** A model, what it learns from and how well it does: what the command trains and evaluates. */
export interface Task {
  readonly name: string;
  readonly model: SaveableModel;
  readonly objective: Objective;
  readonly train: BatchSource;
  /** Size and treatment of the data in words, truncation included: nothing is dropped silently. */
  readonly notes: readonly string[];
  /** Those of them that are about the held-out data alone. */
  readonly heldOutNotes?: readonly string[];
  /** The key of {@link evaluate}'s result that answers "how good is it?". */
  readonly metric: string;
  /** Whether more of it is better. */
  readonly higherIsBetter: boolean;
  /** What always giving the commonest answer of the training data would reach. */
  readonly majority?: { label: string; accuracy: number };
  /** Tokens that the model reads at once; undefined where it reads none. */
  readonly length?: number;
  /** Measures the present weights on the held-out data. */
  evaluate(onProgress?: (done: number, of: number) => void): Promise<Readonly<Record<string, number>>>;
  /** What must be known to use the trained adapter again; saved beside it as espalier.json. */
  readonly record: { readonly task: string; readonly [key: string]: unknown };
  dispose(): Promise<void>;
}

/** What a task is made of besides its model. */
export interface TaskData<E extends Example = Example> {
  /** Empty where a model is only measured. */
  train: readonly E[];
  heldOut: readonly E[];
  batchSize: number;
  /** Of the order, and of what a task draws. */
  seed: number;
  /**
   * The lengths of training batches, ascending, or "auto": those that leave least padding (`chooseBuckets`), at most `maxShapes` (default 4, for each is
   * a program of its own). Default: a quarter, a half and the whole of the longest.
   */
  buckets?: readonly number[] | "auto";
  maxShapes?: number;
  /** Where token ids are kept for the next time (`encodedTexts`). Default nowhere. */
  cache?: TokenCacheOptions;
  /** Whether several examples share a row of a training batch, in tasks that have it. */
  packing?: boolean;
}

/** The task with further entries of its record: the columns that training was told to read and a predictor reads again. */
export const recording = (task: Task, columns: Readonly<Record<string, string | undefined>>): Task => ({
  ...task,
  record: { ...task.record, ...columns },
});

/** Batches of the examples; where there are none because a model is only measured, a source that has none. */
export function batchesOf<E>(examples: readonly E[], batches: (examples: readonly E[]) => BatchSource): BatchSource {
  if (examples.length > 0) return batches(examples);
  return {
    batchesPerEpoch: 0,
    batch() {
      throw new EspalierError("data-batches", "There are no training examples: the task was made to measure a model only.");
    },
  };
}
