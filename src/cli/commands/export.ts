import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { writeSafetensors } from "../../checkpoints/index.ts";
import { EspalierError, Random } from "../../graph/index.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { adapterInputs, loadAdapter, mergeAdapters } from "../../methods/index.ts";
import {
  checkExport,
  type ExportableModel,
  type ExportDtype,
  exportDtypes,
  exportOnnx,
  isExportable,
  loadExportable,
  type SaveModelOptions,
} from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { type AnyTaskKind, taskKind } from "../../train/tasks/table.ts";
import { baseOf } from "../adapted.ts";
import { defaultModel } from "../default-model.ts";
import { modelDirectory } from "../model-directory.ts";
import { list } from "../options.ts";
import { readTaskRecord } from "../task-record.ts";
import { formatBytes, formatCount, formatPercent, Terminal } from "../terminal.ts";

interface ExportFlags {
  model?: string;
  adapter?: string;
  output: string;
  dtype: ExportDtype[];
  adapterInputs?: boolean;
  json?: boolean;
}

export function exportCommand(): Command {
  return new Command("export")
    .description("Write a model as ONNX, for transformers.js and any ONNX Runtime.")
    .requiredOption("--output <directory>", "where the graphs, the configuration and the tokenizer go")
    .option(
      "--model <model>",
      "model, a directory or org/name on the Hugging Face Hub (default: the adapter's base, or the embedded sapling)",
    )
    .option("--adapter <adapter>", "adapter to merge into the weights: a directory, or org/name on the Hub")
    .option("--adapter-inputs", "do not merge: the adapter's tensors become inputs of the graph and are saved beside it")
    .addOption(
      new Option("--dtype <types>", "how weights are stored: f32, f16, int8, or several with commas between")
        .argParser(dtypes)
        .default(["f32"], "f32"),
    )
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: ExportFlags) => {
      const terminal = new Terminal();
      if (flags.adapterInputs && flags.adapter === undefined)
        throw new EspalierError("bad-option", "--adapter-inputs needs an --adapter, whose modules the inputs belong to.");
      const device = cpu();
      const { model, source, saved } = await open(flags);
      const adapter = flags.adapterInputs ? adapterInputs(model) : undefined;
      const merged = flags.adapter !== undefined && !adapter ? mergeAdapters(model, device).modules : [];
      if (!adapter) model.freeze();
      const options = { source, dtypes: flags.dtype, ...saved, ...(adapter && { inputOf: adapter.inputOf }) };
      const written = exportOnnx(flags.output, model, options);
      const tensors = adapter && saveTensors(flags, adapter.tensors);
      const ids = await sampleIds(flags.output, model);
      const feeds = adapter && Object.fromEntries(adapter.tensors);
      const files: Record<string, unknown>[] = [];
      for (const one of written) {
        const check = await checkExport(device, model, one, ids, feeds);
        const bytes = one.byteLength + (one.data?.byteLength ?? 0);
        terminal.line(
          `${one.file}: ${one.dtype}, ${formatBytes(bytes)}. Its outputs, of up to ${check.largestValue.toPrecision(3)}, differ from the model's by ${check.largestDifference.toPrecision(2)} at most; the first choice is the same in ${formatPercent(check.sameChoice)} of ${formatCount(check.places)} places.`,
        );
        files.push({ file: one.file, dtype: one.dtype, bytes, ...(one.data && { data: one.data.file }), ...check });
      }
      if (tensors) terminal.line(`${tensors}: the adapter's tensors, to be fed under their names.`);
      if (ids.length > 0 && !existsSync(join(flags.output, "tokenizer.json")))
        terminal.line("The model has no tokenizer.json, which the pipelines of transformers.js need.");
      if (flags.json) terminal.json({ output: flags.output, files, merged, ...(tensors && { adapter: tensors }) });
      await device.dispose();
    });
}

function dtypes(text: string): ExportDtype[] {
  const names = list(text);
  const wrong = names.find((name) => !exportDtypes.includes(name as ExportDtype));
  if (names.length === 0 || wrong !== undefined) throw new InvalidArgumentError(`Allowed choices are ${exportDtypes.join(", ")}.`);
  return [...new Set(names)] as ExportDtype[];
}

interface Opened {
  model: ExportableModel;
  /** The directory of the model, or of the adapter's base. */
  source: string;
  saved: Pick<SaveModelOptions, "labels" | "problemType"> | undefined;
}

/** The record says what a model is used for; without one its configuration does. */
async function open({ model: named, adapter }: ExportFlags): Promise<Opened> {
  const directory = await modelDirectory(adapter ?? named ?? defaultModel);
  const base = adapter === undefined ? directory : named === undefined ? await baseOf(directory) : await modelDirectory(named);
  const record = readTaskRecord(directory);
  const kind = record && taskKind(record.task)!;
  const model = kind ? exportable((await kind.load(base, record)).model, directory, kind) : loadExportable(base);
  model.freeze();
  if (adapter !== undefined) loadAdapter(model, directory);
  return { model, source: base, saved: kind?.saved?.(record) };
}

function exportable(model: object, directory: string, { name, summary }: AnyTaskKind): ExportableModel {
  if (isExportable(model)) return model;
  throw new EspalierError(
    "unsupported-task",
    `${directory}: was trained for ${name} (${summary}), and models of that kind cannot be exported. Espalier itself runs them: espalier predict.`,
  );
}

/** Named after the adapter's directory, or after its run's. */
function saveTensors({ adapter, output }: ExportFlags, tensors: ReturnType<typeof adapterInputs>["tensors"]): string {
  const path = resolve(adapter!);
  const name = basename(path) === "adapter" ? basename(dirname(path)) : basename(path);
  const file = join(output, "onnx", `${name}.safetensors`);
  writeSafetensors(file, new Map(Array.from(tensors, ([key, { dtype, shape, data }]) => [key, { kind: "memory", dtype, shape, data }])));
  return file;
}

const sample =
  "An espalier is a tree that is trained flat against a wall. It takes a few years, some patience, and a gardener who knows which branches to keep.";

/** Tokens to try the files with: a text's, or random ones where there is no tokenizer. Models of images need none. */
async function sampleIds(directory: string, model: ExportableModel): Promise<number[]> {
  if (!("contextLength" in model)) return [];
  const limit = Math.min(64, model.contextLength);
  if (existsSync(join(directory, "tokenizer.json"))) return (await tokenizerFromDirectory(directory)).encode(sample).slice(0, limit);
  const random = new Random(1);
  return Array.from({ length: Math.min(16, limit) }, () => random.integer(model.config.vocab_size));
}
