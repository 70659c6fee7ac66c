import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { Command, Option } from "commander";
import { writeJson } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { largestChange, mergeAdapters, probeLogits } from "../../methods/index.ts";
import { loadCausalLM, loadSequenceClassifier, saveModel } from "../../models/index.ts";
import type { Device } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { type Adapted, openAdapted } from "../adapted.ts";
import { recordFile } from "../task-record.ts";
import { Terminal } from "../terminal.ts";

interface MergeFlags {
  adapter: string;
  model?: string;
  output: string;
  dtype: "f32" | "bf16";
  resizeEmbeddings?: boolean;
  json?: boolean;
}

export function mergeCommand(): Command {
  return new Command("merge")
    .description("Add an adapter to its base model's weights and save the result as a model of its own.")
    .requiredOption("--adapter <adapter>", "adapter to merge: a directory, or org/name on the Hub")
    .requiredOption("--output <directory>", "where the merged model goes")
    .option("--model <model>", "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own)")
    .addOption(new Option("--dtype <type>", "type of the weights; bf16 rounds small updates away").choices(["f32", "bf16"]).default("f32"))
    .option("--resize-embeddings", "resize the base model's embedding where the adapter was made for another number of tokens")
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: MergeFlags) => {
      const terminal = new Terminal();
      const adapted = await openAdapted(flags.adapter, flags.model, "f32", { resize: flags.resizeEmbeddings ?? false });
      if (existsSync(flags.output) && realpathSync(flags.output) === realpathSync(adapted.base))
        throw new EspalierError("save-onto-source", `${flags.output} is the base model's own directory. Give another --output.`);
      const device = cpu();
      const before = await probe(adapted, device);
      const { modules } = mergeAdapters(adapted.model, device);
      const merged = await probe(adapted, device);
      saveModel(flags.output, adapted.model, {
        source: adapted.base,
        dtype: flags.dtype,
        ...(adapted.kind === "classification" && { labels: adapted.record.labels }),
      });
      if (adapted.record) writeJson(join(flags.output, recordFile), adapted.record);
      terminal.line(`Merged ${modules.length} adapters into ${flags.output} (${flags.dtype}).`);
      const saved = await probe(reopened(adapted, flags.output), device);
      const changes = before && merged && saved && { byMerging: largestChange(before, merged), bySaving: largestChange(merged, saved) };
      if (changes)
        terminal.line(
          `Largest change of a logit on a probe batch, where the largest is ${largest(before).toPrecision(3)}: ${changes.byMerging.toExponential(1)} by merging, ${changes.bySaving.toExponential(1)} by saving as ${flags.dtype}.`,
        );
      if (flags.json)
        terminal.json({ output: flags.output, merged: modules, dtype: flags.dtype, ...(changes && { logitChange: changes }) });
      await device.dispose();
    });
}

const largest = (values: Float32Array): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** Logits of a batch that tells what merging and saving do to them; none of encoder-decoders. */
async function probe(adapted: Adapted, device: Device): Promise<Float32Array | undefined> {
  return adapted.kind === "seq2seq" ? undefined : probeLogits(adapted.model, device);
}

/** The model as it was saved. */
function reopened(adapted: Adapted, directory: string): Adapted {
  if (adapted.kind === "classification") return { ...adapted, model: loadSequenceClassifier(directory, adapted.record.labels).freeze() };
  return adapted.kind === "language-modeling" ? { ...adapted, model: loadCausalLM(directory).freeze() } : adapted;
}
