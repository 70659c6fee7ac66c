import { Command } from "commander";
import { openCheckpoint, readPeftAdapter, saveLoraGguf } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { baseOf } from "../adapted.ts";
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
    .requiredOption("--adapter <directory>", "LoRA adapter of a Llama, Qwen2 or Qwen3 language model")
    .requiredOption("--output <file>", "GGUF file to write")
    .option("--model <path>", "base model (default: the adapter's own)")
    .option("--json", "print the result as one JSON object in the last line")
    .action((flags: ConvertFlags) => {
      const terminal = new Terminal();
      if (!flags.output.toLowerCase().endsWith(".gguf"))
        throw new EspalierError("output-name", `--output ${flags.output}: give a name that ends in .gguf.`);
      const adapter = readPeftAdapter(flags.adapter);
      const { config } = openCheckpoint(flags.model ?? baseOf(flags.adapter));
      const { modules } = saveLoraGguf(flags.output, adapter, config);
      terminal.line(
        `Wrote ${modules.length} adapted modules to ${flags.output}. Use it with the base model's GGUF file: llama-cli -m <base>.gguf --lora ${flags.output}`,
      );
      if (flags.json) terminal.json({ output: flags.output, modules });
    });
}
