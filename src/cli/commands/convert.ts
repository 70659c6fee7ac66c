import { Command } from "commander";
import { openCheckpoint, readPeftAdapter, saveLoraGguf } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { baseOf } from "../adapted.ts";
import { modelDirectory } from "../model-directory.ts";
import { Terminal } from "../terminal.ts";

interface ConvertFlags {
  adapter: string;
  model?: string;
  output: string;
  json?: boolean;
}

export function convertCommand(): Command {
  return new Command("convert")
    .description("Write an adapter as a GGUF file, for llama.cpp and what is built on it.")
    .requiredOption("--adapter <adapter>", "LoRA adapter of a Llama, Qwen2 or Qwen3 language model: a directory, or org/name on the Hub")
    .requiredOption("--output <file>", "GGUF file to write")
    .option("--model <model>", "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own)")
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: ConvertFlags) => {
      const terminal = new Terminal();
      if (!flags.output.toLowerCase().endsWith(".gguf"))
        throw new EspalierError("output-name", `--output ${flags.output}: give a name that ends in .gguf.`);
      const directory = await modelDirectory(flags.adapter);
      const adapter = readPeftAdapter(directory);
      const { config } = openCheckpoint(flags.model === undefined ? await baseOf(directory) : await modelDirectory(flags.model));
      const { modules } = saveLoraGguf(flags.output, adapter, config);
      terminal.line(
        `Wrote ${modules.length} adapted modules to ${flags.output}. Use it with the base model's GGUF file: llama-cli -m <base>.gguf --lora ${flags.output}`,
      );
      if (flags.json) terminal.json({ output: flags.output, modules });
    });
}
