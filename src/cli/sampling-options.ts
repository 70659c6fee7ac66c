import type { Command } from "commander";
import type { GenerateOptions } from "../generate/index.ts";
import { integer, list, number } from "./options.ts";

export interface SamplingFlags {
  maxNewTokens: number;
  temperature: number;
  topK?: number;
  topP?: number;
  repetitionPenalty?: number;
  stop?: string[];
  beams: number;
  seed: number;
}

/** How an answer is drawn and where it ends. */
export const addSamplingOptions = (command: Command, maxNewTokens: number): Command =>
  command
    .option("--max-new-tokens <n>", "tokens to add at most", integer(1), maxNewTokens)
    .option("--temperature <x>", "0 always takes the likeliest token", number(0), 0.8)
    .option("--top-k <n>", "draw from the k likeliest tokens only", integer(1))
    .option("--top-p <p>", "draw from the smallest set of this probability only", number(0.0001, 1))
    .option("--repetition-penalty <x>", "above 1 makes repetition less likely", number(0.0001))
    .option("--beams <n>", "above 1: beam search for the likeliest text, instead of drawing", integer(1), 1)
    .option("--stop <texts>", "texts that end the answer, separated by commas", list)
    .option("--seed <n>", "seed of the draws", integer(0), 0);

export const samplingOf = ({
  maxNewTokens,
  temperature,
  topK,
  topP,
  repetitionPenalty,
  stop,
  seed,
  beams,
}: SamplingFlags): GenerateOptions => ({
  maxNewTokens,
  // What draws does not apply to a search.
  temperature: beams > 1 ? 0 : temperature,
  beams,
  topK,
  topP,
  repetitionPenalty,
  stop,
  seed,
});
