import { Command } from "commander";
import { EspalierError } from "../../graph/index.ts";
import { mergeLora } from "../../methods/index.ts";
import { saveModel } from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { openAdapted } from "../adapted.ts";
import { Terminal } from "../terminal.ts";

interface MergeFlags {
  adapter: string;
  model?: string;
  output: string;
  dtype: "f32" | "bf16";
  json?: boolean;
}

export function mergeCommand(): Command {
  return new Command("merge")
    .description("Add an adapter to its base model's weights and save the result as a model of its own.")
    .requiredOption("--adapter <directory>", "adapter to merge")
    .requiredOption("--output <directory>", "where the merged model goes")
    .option("--model <directory>", "base model (default: the adapter's own)")
    .option("--dtype <type>", "f32 or bf16; bf16 rounds small updates away", "f32")
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: MergeFlags) => {
      const terminal = new Terminal();
      if (flags.dtype !== "f32" && flags.dtype !== "bf16")
        throw new EspalierError("bad-option", `--dtype must be f32 or bf16, not "${flags.dtype}".`);
      const adapted = await openAdapted(flags.adapter, flags.model);
      const { modules } = mergeLora(adapted.model, cpu());
      saveModel(flags.output, adapted.model, {
        source: adapted.base,
        dtype: flags.dtype,
        ...(adapted.kind === "classification" && { labels: adapted.record.labels }),
      });
      terminal.line(`Merged ${modules.length} adapters into ${flags.output} (${flags.dtype}).`);
      if (flags.json) terminal.json({ output: flags.output, merged: modules, dtype: flags.dtype });
    });
}
