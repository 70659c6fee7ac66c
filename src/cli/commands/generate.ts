import { readFileSync } from "node:fs";
import { Command } from "commander";
import { generate } from "../../generate/index.ts";
import { EspalierError } from "../../graph/index.ts";
import type { BaseDtype } from "../../models/index.ts";
import { openDevice } from "../../runtime/open-device.ts";
import { openTextGenerator } from "../adapted.ts";
import { runFlag } from "../config/flags.ts";
import type { RunOptions } from "../config/run-options.ts";
import { addSamplingOptions, type SamplingFlags, samplingOf } from "../sampling-options.ts";
import { formatCount, Terminal } from "../terminal.ts";

interface GenerateFlags extends SamplingFlags, Pick<RunOptions, "device"> {
  prompt: string;
  model?: string;
  adapter?: string;
  baseDtype: BaseDtype;
  json?: boolean;
}

export function generateCommand(): Command {
  const command = new Command("generate")
    .description("Continue a text with a language model, or answer it with an encoder-decoder (T5, BART); with an adapter or without.")
    .requiredOption("--prompt <text>", "the text to continue or answer; @file reads it from a file")
    .option(
      "--model <model>",
      "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own, or the embedded sapling)",
    )
    .option("--adapter <adapter>", "adapter of a language model: a directory, or org/name on the Hub")
    .addOption(runFlag("baseDtype"))
    .addOption(runFlag("device"));
  return addSamplingOptions(command, 128)
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: GenerateFlags) => {
      const terminal = new Terminal();
      const prompt = flags.prompt.startsWith("@") ? readPrompt(flags.prompt.slice(1)) : flags.prompt;
      const { generator, tokenizer, kind } = await openTextGenerator(
        await openDevice(flags.device),
        flags.model,
        flags.adapter,
        flags.baseDtype,
      );
      const generation = generate(generator, tokenizer, prompt, { ...samplingOf(flags), overflow: "truncate" });
      if (kind === "language-modeling") terminal.write(prompt);
      for await (const piece of generation) terminal.write(piece);
      terminal.line();
      const result = await generation.result();
      if (result.droppedTokens > 0)
        terminal.line(`The prompt was longer than the context: its first ${formatCount(result.droppedTokens)} tokens were dropped.`);
      if (flags.json) terminal.json({ prompt, ...result });
      await generator.dispose();
    });
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
