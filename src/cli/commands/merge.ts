import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { Command, Option } from "commander";
import { writeJson } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { mergeAdapters } from "../../methods/index.ts";
import { saveModel } from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { openAdapted } from "../adapted.ts";
import { recordFile } from "../task-record.ts";
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
    .requiredOption("--adapter <adapter>", "adapter to merge: a directory, or org/name on the Hub")
    .requiredOption("--output <directory>", "where the merged model goes")
    .option("--model <model>", "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own)")
    .addOption(new Option("--dtype <type>", "type of the weights; bf16 rounds small updates away").choices(["f32", "bf16"]).default("f32"))
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: MergeFlags) => {
      const terminal = new Terminal();
      const adapted = await openAdapted(flags.adapter, flags.model);
      if (existsSync(flags.output) && realpathSync(flags.output) === realpathSync(adapted.base))
        throw new EspalierError("save-onto-source", `${flags.output} is the base model's own directory. Give another --output.`);
      const { modules } = mergeAdapters(adapted.model, cpu());
      saveModel(flags.output, adapted.model, {
        source: adapted.base,
        dtype: flags.dtype,
        ...(adapted.kind === "classification" && { labels: adapted.record.labels }),
      });
      if (adapted.record) writeJson(join(flags.output, recordFile), adapted.record);
      terminal.line(`Merged ${modules.length} adapters into ${flags.output} (${flags.dtype}).`);
      if (flags.json) terminal.json({ output: flags.output, merged: modules, dtype: flags.dtype });
    });
}
