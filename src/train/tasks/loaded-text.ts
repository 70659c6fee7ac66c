import { openCheckpoint } from "../../checkpoints/index.ts";
import { chooseBuckets } from "../../data/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import type { SaveableModel } from "../../models/index.ts";
import type { Loaded } from "./kind.ts";
import type { TaskData } from "./task.ts";

/** A model that reads text. */
export interface LoadedText<M extends SaveableModel> extends Loaded {
  readonly model: M;
  readonly tokenizer: Tokenizer;
  /** Where they come from. */
  readonly directory: string;
}

/** A model and its tokenizer. */
export async function loadText<M extends SaveableModel>(directory: string, load: (directory: string) => M): Promise<LoadedText<M>> {
  openCheckpoint(directory); // before the tokenizer, so that a wrong directory is reported as such
  return { tokenizer: await tokenizerFromDirectory(directory), model: load(directory), directory };
}

export const padIdOf = (tokenizer: Tokenizer): number => tokenizer.padId ?? tokenizer.eosId ?? 0;

/** The lengths of training batches as the data say they should be, and the share of padding where they were chosen. */
export function trainingBuckets(
  lengths: readonly number[],
  maxLength: number,
  { buckets, maxShapes = 4, batchSize }: Pick<TaskData, "buckets" | "maxShapes" | "batchSize">,
): { buckets: readonly number[]; notes: string[] } {
  if (buckets === undefined || lengths.length === 0) return { buckets: lengthBuckets(maxLength), notes: [] };
  // What is longer than a list says would have no batch.
  if (buckets !== "auto") return { buckets: buckets.at(-1)! < maxLength ? [...buckets, maxLength] : buckets, notes: [] };
  const chosen = chooseBuckets(lengths, { batchSize, maxShapes, limit: maxLength });
  const share = (100 * chosen.padding).toFixed(1);
  return {
    buckets: chosen.buckets,
    notes: [`batches of ${chosen.buckets.join(", ")} tokens; ${share} % of an epoch's places are padding`],
  };
}

/** Few lengths, so that few programs are compiled. */
export const lengthBuckets = (maxLength: number): number[] => [
  ...new Set([maxLength / 4, maxLength / 2, maxLength].map((n) => Math.max(1, Math.ceil(n)))),
];
