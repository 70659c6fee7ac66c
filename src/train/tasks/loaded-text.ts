import { openCheckpoint } from "../../checkpoints/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import type { SaveableModel } from "../../models/index.ts";
import type { Loaded } from "./kind.ts";

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

/** Few lengths, so that few programs are compiled. */
export const lengthBuckets = (maxLength: number): number[] => [
  ...new Set([maxLength / 4, maxLength / 2, maxLength].map((n) => Math.max(1, Math.ceil(n)))),
];
