import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { Command, Option } from "commander";
import { writeJson } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { largestChange, mergeAdapters, probeLogits } from "../../methods/index.ts";
import { CausalLM, loadCausalLM, SequenceClassifier, saveModel } from "../../models/index.ts";
import type { Module } from "../../nn/index.ts";
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
      const adapted = await openAdapted(flags, { resize: flags.resizeEmbeddings ?? false });
      const { model } = adapted.loaded;
      if (existsSync(flags.output) && realpathSync(flags.output) === realpathSync(adapted.base))
        throw new EspalierError("save-onto-source", `${flags.output} is the base model's own directory. Give another --output.`);
      const device = cpu();
      const before = await probe(model, device);
      const { modules } = mergeAdapters(model, device);
      const merged = await probe(model, device);
      saveModel(flags.output, model, {
        source: adapted.base,
        dtype: flags.dtype,
        ...adapted.use?.kind.saved?.(adapted.use.record),
      });
      if (adapted.use) writeJson(join(flags.output, recordFile), adapted.use.record);
      terminal.line(`Merged ${modules.length} adapters into ${flags.output} (${flags.dtype}).`);
      const saved = before && (await probe(await reopened(adapted, flags.output), device));
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

/** Logits of a batch that tells what merging and saving do to them; of models that read tokens and nothing else. */
async function probe(model: Module, device: Device): Promise<Float32Array | undefined> {
  return model instanceof CausalLM || model instanceof SequenceClassifier ? probeLogits(model, device) : undefined;
}

/** The model as it was saved. */
async function reopened({ use, loaded: { model } }: Adapted, directory: string): Promise<Module> {
  const saved = use ? (await use.kind.load(directory, use.record)).model : model instanceof CausalLM ? loadCausalLM(directory) : model;
  return saved.freeze();
}
