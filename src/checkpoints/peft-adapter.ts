/**
 * Adapter directories of Hugging Face PEFT: `adapter_config.json` + `adapter_model.safetensors`.
 *
 * In the file a tensor is called `base_model.model.<path in the model>` (beside virtual tokens `base_model.<path>`), and what belongs to an adapted
 * layer itself `<layer>.base_layer.bias`. Here names go without either, e.g. `model.layers.0.self_attn.q_proj.lora_A.weight` ([r, in]),
 * `….lora_B.weight` ([out, r]), `….q_proj.bias` and, from modules_to_save, `score.weight`. `prompt_embeddings` has no path.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { EspalierError } from "../graph/errors.ts";
import type { FileStorage, Storage } from "../graph/storage.ts";
import { listDirectory, makeDirectory, pytorchMetadata, refusePickle } from "./hf-directory.ts";
import { parseHubId } from "./hub/hub-id.ts";
import { readJsonObject, writeJson } from "./json-file.ts";
import { loraScaling, type PeftConfig, type PeftConfigInput, type PeftType, parsePeftConfig } from "./peft-config.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { quoteName } from "./safetensors-header.ts";

const configName = "adapter_config.json";
const weightsName = "adapter_model.safetensors";
/** What is saved of virtual tokens. */
const prompt = "prompt_embeddings";

export interface PeftAdapter<S extends Storage = Storage, T extends PeftType = PeftType> {
  config: PeftConfig<T>;
  /** By path in the model, without PEFT's prefix. */
  tensors: Map<string, S>;
}

/**
 * Opens an adapter directory without reading a value.
 *
 * @throws EspalierError `checkpoint-missing`, `checkpoint-pickle`, `adapter-config`, `adapter-tensors`, and what {@link openSafetensors} throws
 */
export function readPeftAdapter(directory: string): PeftAdapter<FileStorage> {
  const files = listDirectory(directory);
  if (!files.includes(configName)) {
    throw new EspalierError(
      "checkpoint-missing",
      `${directory}: is not an adapter, it has no ${configName}. Give the directory that PEFT or Espalier saved.`,
    );
  }
  const config = parsePeftConfig(readJsonObject(join(directory, configName)), join(directory, configName));
  if (!files.includes(weightsName)) {
    throw (
      refusePickle(directory, files) ??
      new EspalierError("checkpoint-missing", `${directory}: has ${configName} but no ${weightsName}. Fetch or save the adapter again.`)
    );
  }
  const file = join(directory, weightsName);
  const tensors = new Map<string, FileStorage>();
  for (const [name, storage] of openSafetensors(file).tensors) tensors.set(nameInModel(name, config, file), storage);
  checkPairs(config, tensors, file);
  return { config, tensors };
}

/**
 * Saves an adapter directory (created when missing) that PEFT loads: the tensors first and the configuration last, each file atomically.
 *
 * @param adapter.tensors by path in the model, without PEFT's prefix
 */
export function writePeftAdapter(directory: string, adapter: { config: PeftConfigInput; tensors: ReadonlyMap<string, Storage> }): void {
  const file = join(directory, weightsName);
  const config = parsePeftConfig(withRevisionApart(adapter.config), join(directory, configName));
  checkPairs(config, adapter.tensors, file);
  makeDirectory(directory);
  const { tensors } = adapter;
  writeSafetensors(file, new Map([...tensors].map(([name, storage]) => [nameInFile(name, config, tensors), storage])), pytorchMetadata);
  writeJson(join(directory, configName), config);
}

const prefixOf = ({ peft_type }: PeftConfig): string => (peft_type === "LORA" || peft_type === "IA3" ? "base_model.model." : "base_model.");

function nameInModel(name: string, config: PeftConfig, file: string): string {
  const prefix = prefixOf(config);
  if (prefix === "base_model." && name === prompt) return name;
  if (!name.startsWith(prefix))
    throw new EspalierError(
      "adapter-tensors",
      `${file}: tensor ${quoteName(name)} does not start with "${prefix}", as PEFT's do. Save the adapter with PEFT again.`,
    );
  return name.slice(prefix.length).replace(/\.base_layer\.(weight|bias)$/, ".$1");
}

function nameInFile(name: string, config: PeftConfig, tensors: ReadonlyMap<string, Storage>): string {
  if (name === prompt) return name;
  const [, layer, own] = /^(.+)\.(weight|bias)$/.exec(name) ?? [];
  const adapted = ["lora_A.weight", "lora_embedding_A", "ia3_l"].some((part) => tensors.has(`${layer}.${part}`));
  return prefixOf(config) + (adapted ? `${layer}.base_layer.${own}` : name);
}

/** PEFT has a key of its own for the revision of a base model that is named as on the Hub. */
function withRevisionApart(config: PeftConfigInput): PeftConfigInput {
  const base = config.base_model_name_or_path ?? "";
  const id = parseHubId(base);
  if (id?.revision === undefined || existsSync(base)) return config;
  return { ...config, base_model_name_or_path: base.slice(0, base.indexOf("@")), revision: id.revision };
}

/** Every lora_A has its lora_B and both have the rank that the configuration gives them: a wrong scale would go unnoticed otherwise. */
function checkPairs(config: PeftConfig, tensors: ReadonlyMap<string, Storage>, file: string): void {
  if (config.peft_type !== "LORA") return;
  for (const [name, { shape }] of tensors) {
    const match = /^(.+)\.(lora_|lora_embedding_)([AB])(\.weight)?$/.exec(name);
    if (!match) continue;
    const [, module, kind, side, end = ""] = match as unknown as [string, string, string, "A" | "B", string | undefined];
    const other = `${module}.${kind}${side === "A" ? "B" : "A"}${end}`;
    if (!tensors.has(other)) {
      throw new EspalierError("adapter-tensors", `${file}: has ${quoteName(name)} but not ${quoteName(other)}. Save the adapter again.`);
    }
    const axis = side === "A" ? 0 : 1;
    const { rank } = loraScaling(config, module, join(dirname(file), configName));
    if (shape[axis] !== rank) {
      throw new EspalierError(
        "adapter-tensors",
        `${file}: tensor ${quoteName(name)} has the shape [${shape.join(", ")}], but ${configName} gives that module the rank ${rank}, so axis ${axis} must be ${rank}. The two files are of different adapters, or r / rank_pattern is wrong.`,
      );
    }
  }
}
