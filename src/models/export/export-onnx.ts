/** A model → a directory that transformers.js runs, and any ONNX Runtime. */
import { existsSync, readdirSync, realpathSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { findGguf, makeDirectory, type WrittenOnnx, writeFiles, writeJson, writeOnnxFile } from "../../checkpoints/index.ts";
import { EspalierError, type Shape, type Variable } from "../../graph/index.ts";
import { CausalLM } from "../causal-lm.ts";
import { configToSave, filesToCopy } from "../save.ts";
import { type ExportableModel, exportGraphs } from "./graphs.ts";
import { isSeq2Seq } from "./seq2seq-graphs.ts";
import { type ExportDtype, exportDtypes, withStoredWeights } from "./weights.ts";

export interface ExportOnnxOptions {
  /** What the model was loaded from: its configuration is kept, and its tokenizer copied. */
  source?: string;
  /** A file is written for each. Default f32. */
  dtypes?: readonly ExportDtype[];
  /** The classes of a classifier, in the order of the head's outputs. */
  labels?: readonly string[];
  /** Shapes of the inputs that variables become, such as an adapter's weights, under their names; undefined for what is stored. */
  inputOf?(variable: Variable): Shape | undefined;
  /** Whether weights go into a file beside the graph, `….onnx_data`. Default: when they are larger than 100 MB. */
  external?: boolean;
}

export interface ExportedOnnx extends WrittenOnnx {
  dtype: ExportDtype;
  /** `model`, or what the part of an encoder–decoder is called. */
  part: string;
}

/** What transformers.js calls the types. */
const javascriptNames: Readonly<Record<ExportDtype, string>> = { f32: "fp32", f16: "fp16", int8: "q8" };

/** How it names their files. */
const suffixes: Readonly<Record<ExportDtype, string>> = { f32: "", f16: "_fp16", int8: "_quantized" };

/**
 * Writes `onnx/model.onnx` (`model_fp16.onnx`, `model_quantized.onnx`; of an encoder–decoder `encoder_model` and `decoder_model_merged`) with standard operators only, config.json, generation_config.json and the
 * tokenizer's files. Files of other types that an earlier export left there stay. The values are those that parameters hold in their storages; they are
 * streamed, so that a model of any size costs a few times the memory of its largest weight.
 *
 * @throws EspalierError `not-exportable` (virtual tokens), `float16-range`, `not-finite` (a weight), `save-onto-source`, `disk-full`, `not-writable`
 */
export function exportOnnx(directory: string, model: ExportableModel, options: ExportOnnxOptions = {}): ExportedOnnx[] {
  const { source, dtypes = ["f32"], inputOf = () => undefined, external } = options;
  if (source !== undefined && findGguf(source) === undefined && existsSync(directory) && realpathSync(directory) === realpathSync(source))
    throw new EspalierError("save-onto-source", `${directory} is the directory that the model was loaded from. Export into another one.`);
  const graphs = join(directory, "onnx");
  makeDirectory(graphs);
  const written: ExportedOnnx[] = [];
  for (const [part, traced] of Object.entries(exportGraphs(model))) {
    for (const dtype of dtypes) {
      const file = join(graphs, `${part}${suffixes[dtype]}.onnx`);
      const dataFile = `${file}_data`;
      const made = writeOnnxFile(file, withStoredWeights(traced, dtype, inputOf), {
        dataFile,
        ...(external !== undefined && { external }),
      });
      // Of an earlier export: transformers.js would be told to load it.
      if (!made.data) rmSync(dataFile, { force: true });
      written.push({ ...made, dtype, part });
    }
  }
  writeFiles(directory, filesToCopy(source, model));
  const config = configToSave(model, options, "f32");
  const generation = join(directory, "generation_config.json");
  if ((model instanceof CausalLM || isSeq2Seq(model)) && !existsSync(generation)) writeJson(generation, tokenIds(config));
  writeJson(join(directory, "config.json"), { ...config, "transformers.js_config": javascriptConfig(config, graphs) });
  return written;
}

const tokenIds = (config: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(
    ["bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"]
      .filter((key) => config[key] != null)
      .map((key) => [key, config[key]]),
  );

/** Tells transformers.js which graphs have their weights beside them, and what to load by default, where what it would look for is not there. */
function javascriptConfig(config: Readonly<Record<string, unknown>>, graphs: string): Record<string, unknown> {
  const { use_external_data_format: _, dtype: __, ...kept } = (config["transformers.js_config"] ?? {}) as Record<string, unknown>;
  const names = readdirSync(resolve(graphs));
  const beside = names.filter((name) => name.endsWith(".onnx_data")).map((name) => [name.slice(0, -"_data".length), 1]);
  const present = exportDtypes.filter((dtype) => names.some((name) => name.endsWith(`model${suffixes[dtype]}.onnx`)));
  // Without a word it loads fp32, in a browser without WebGPU q8.
  const complete = present.includes("f32") && present.includes("int8");
  return {
    ...kept,
    ...(!complete && { dtype: javascriptNames[present[0]!] }),
    ...(beside.length > 0 && { use_external_data_format: Object.fromEntries(beside) }),
  };
}
