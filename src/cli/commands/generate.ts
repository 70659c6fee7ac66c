import { readFileSync } from "node:fs";
import { Command } from "commander";
import { Decoder, generate } from "../../generate/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { cpu } from "../../runtime/node.ts";
import { openAdapted, openModel } from "../adapted.ts";
import { defaultModel } from "../default-model.ts";
import { integer, list, number } from "../options.ts";
import { formatCount, Terminal } from "../terminal.ts";

interface GenerateFlags {
  prompt: string;
  model?: string;
  adapter?: string;
  maxNewTokens: number;
  temperature: number;
  topK?: number;
  topP?: number;
  repetitionPenalty?: number;
  stop?: string[];
  seed: number;
  json?: boolean;
}

export function generateCommand(): Command {
  return new Command("generate")
    .description("Continue a text with a model, or a model with an adapter.")
    .requiredOption("--prompt <text>", "the text to continue; @file reads it from a file")
    .option("--model <directory>", "base model (default: the adapter's own, or the embedded sapling)")
    .option("--adapter <directory>", "adapter of a language model")
    .option("--max-new-tokens <n>", "tokens to add at most", integer(1), 128)
    .option("--temperature <x>", "0 always takes the likeliest token", number(0), 0.8)
    .option("--top-k <n>", "draw from the k likeliest tokens only", integer(1))
    .option("--top-p <p>", "draw from the smallest set of this probability only", number(0.0001, 1))
    .option("--repetition-penalty <x>", "above 1 makes repetition less likely", number(0.0001))
    .option("--stop <texts>", "texts that end the answer, separated by commas", list)
    .option("--seed <n>", "seed of the draws", integer(0), 0)
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: GenerateFlags) => {
      const terminal = new Terminal();
      const prompt = flags.prompt.startsWith("@") ? readPrompt(flags.prompt.slice(1)) : flags.prompt;
      const { model, tokenizer } = await open(flags);
      const decoder = await Decoder.create(cpu(), model);
      const { maxNewTokens, temperature, topK, topP, repetitionPenalty, stop, seed } = flags;
      const generation = generate(decoder, tokenizer, prompt, {
        maxNewTokens,
        temperature,
        topK,
        topP,
        repetitionPenalty,
        stop,
        seed,
        overflow: "truncate",
      });
      terminal.write(prompt);
      for await (const piece of generation) terminal.write(piece);
      terminal.line();
      const result = await generation.result();
      if (result.droppedTokens > 0)
        terminal.line(`The prompt was longer than the context: its first ${formatCount(result.droppedTokens)} tokens were dropped.`);
      if (flags.json) terminal.json({ prompt, ...result });
      await decoder.dispose();
    });
}

async function open({ model, adapter }: GenerateFlags) {
  const opened = adapter === undefined ? await openModel(model ?? defaultModel) : await openAdapted(adapter, model);
  if (opened.kind !== "language-modeling")
    throw new EspalierError(
      "not-a-language-model",
      `${adapter ?? model} is a classifier; it cannot continue texts. Use espalier classify.`,
    );
  return opened;
}

function readPrompt(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new EspalierError("file-missing", `The prompt file ${file} cannot be read (${(cause as NodeJS.ErrnoException).code}).`, {
      cause,
    });
  }
}
