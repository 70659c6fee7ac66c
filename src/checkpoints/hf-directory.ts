/** A checkpoint directory in the Hugging Face layout: config.json beside model.safetensors, or beside shards and their index. */
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { EspalierError } from "../graph/errors.ts";
import type { FileStorage, LazyStorage } from "../graph/storage.ts";
import { writeFileAtomically } from "./atomic-file.ts";
import { isGguf, openGgufCheckpoint } from "./gguf/open-gguf.ts";
import { isInnerPath } from "./inner-path.ts";
import { readJsonObject, writeJson } from "./json-file.ts";
import { type NamedStorages, openSafetensors, writeSafetensors } from "./safetensors.ts";
import { quoteName } from "./safetensors-header.ts";

const configName = "config.json";
const weightsName = "model.safetensors";
const indexName = "model.safetensors.index.json";

export interface Checkpoint {
  /** Absolute path. */
  directory: string;
  /** The parsed config.json; its meaning is the architecture's affair. */
  config: unknown;
  /** Where the configuration was read: config.json, or the GGUF file. */
  configFile: string;
  tensors: Map<string, FileStorage | LazyStorage>;
  /** Names of all files directly in the directory, sorted: tokenizer.json and its friends are found here. */
  files: string[];
}

/**
 * Opens a checkpoint without reading a value: a directory in the Hugging Face layout, a GGUF file, or a directory that holds just one of those.
 *
 * @throws EspalierError `checkpoint-missing` (directory, config.json, weights or a shard), `checkpoint-pickle`, `checkpoint-index`,
 *   and what {@link openSafetensors} and {@link openGgufCheckpoint} throw
 */
export function openCheckpoint(path: string): Checkpoint {
  const gguf = findGguf(path);
  if (gguf !== undefined) return openGgufCheckpoint(gguf);
  const directory = path;
  const files = listDirectory(directory);
  if (!files.includes(configName)) {
    throw new EspalierError(
      "checkpoint-missing",
      files.includes("adapter_config.json")
        ? `${directory}: holds an adapter (adapter_config.json), not a model. Give the base model's directory here, and this one as the adapter.`
        : `${directory}: has no ${configName}, which says what the weights are. It must lie beside the weights, as in a Hugging Face download.`,
    );
  }
  const configFile = join(directory, configName);
  const config = readJsonObject(configFile);
  const tensors = openWeights(directory, files);
  return { directory: resolve(directory), config, configFile, tensors, files };
}

/**
 * The GGUF file that a path stands for: the file itself, or the only one in a directory without a config.json.
 *
 * @throws EspalierError `checkpoint-missing` (no such directory), `checkpoint-ambiguous` (several GGUF files in it)
 */
export function findGguf(path: string): string | undefined {
  if (isGguf(path) && !statSync(path, { throwIfNoEntry: false })?.isDirectory()) return path;
  const files = listDirectory(path);
  if (files.includes(configName)) return undefined;
  const [first, ...others] = files.filter(isGguf);
  if (first === undefined) return undefined;
  if (others.length === 0) return join(path, first);
  throw new EspalierError(
    "checkpoint-ambiguous",
    `${path}: holds ${others.length + 1} GGUF files (${[first, ...others].slice(0, 8).join(", ")}${others.length > 7 ? ", …" : ""}). Give one of them, as in ${join(path, first)}.`,
  );
}

/**
 * Saves a checkpoint directory (created when missing) that transformers loads: model.safetensors first and config.json last, each
 * file atomically, so a directory with a config has its weights.
 *
 * @param checkpoint.extraFiles more files by their paths in the directory, such as tokenizer.json
 */
export function saveCheckpoint(
  directory: string,
  checkpoint: { config: unknown; tensors: NamedStorages; extraFiles?: Readonly<Record<string, string | Uint8Array>> },
): void {
  const extra = checkpoint.extraFiles ?? {};
  for (const name of Object.keys(extra)) {
    if (name !== configName && name !== weightsName && isInnerPath(name)) continue;
    throw new EspalierError(
      "checkpoint-file-name",
      `${directory}: an extra file cannot be called ${quoteName(name)}. Use a path inside the directory, other than ${configName} and ${weightsName}.`,
    );
  }
  makeDirectory(directory);
  writeSafetensors(join(directory, weightsName), checkpoint.tensors, pytorchMetadata);
  writeFiles(directory, extra);
  writeJson(join(directory, configName), checkpoint.config);
}

/** Writes files by their paths in a directory, each atomically; folders are made where they are missing. */
export function writeFiles(directory: string, files: Readonly<Record<string, string | Uint8Array>>): void {
  for (const [name, content] of Object.entries(files)) {
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    const file = join(directory, name);
    makeDirectory(dirname(file));
    writeFileAtomically(file, (append) => append(bytes));
  }
}

/** transformers refuses a file that does not say which framework's layout it holds. */
export const pytorchMetadata: Readonly<Record<string, string>> = { format: "pt" };

/** The names of the files in a directory, sorted, or an error that says that there is none. */
export function listDirectory(directory: string): string[] {
  try {
    return readdirSync(directory)
      .filter((name) => statSync(join(directory, name), { throwIfNoEntry: false })?.isFile())
      .sort();
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const what = code === "ENOENT" ? "there is no such directory" : code === "ENOTDIR" ? "it is a file, not a directory" : message;
    throw new EspalierError(
      "checkpoint-missing",
      `${directory}: cannot be opened, ${what}. Give the directory that holds the model's files.`,
      {
        cause,
      },
    );
  }
}

export function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { recursive: true });
  } catch (cause) {
    throw new EspalierError(
      (cause as NodeJS.ErrnoException).code === "ENOSPC" ? "disk-full" : "not-writable",
      `${directory}: cannot be created (${(cause as Error).message}). Choose a directory that you may write to.`,
      { cause },
    );
  }
}

/** Why a directory that only has a pickled checkpoint is refused, or `undefined` when it has none. */
export function refusePickle(directory: string, files: readonly string[]): EspalierError | undefined {
  const pickle = files.find((name) => /^(pytorch_model.*|adapter_model|consolidated.*|model)\.(bin|pt|pth)$/.test(name));
  if (pickle === undefined) return undefined;
  return new EspalierError(
    "checkpoint-pickle",
    `${directory}: has its weights only as ${pickle}, a Python pickle, which can run any program when it is opened; Espalier reads safetensors only. ` +
      `Convert it where Python is at hand and you trust the file:\n` +
      `  python -c "import torch, safetensors.torch as s; t = torch.load('${pickle}', weights_only=True); ` +
      `s.save_file({k: v.clone().contiguous() for k, v in t.items()}, '${pickle.startsWith("adapter") ? "adapter_model" : "model"}.safetensors', {'format': 'pt'})"`,
  );
}

function openWeights(directory: string, files: readonly string[]): Map<string, FileStorage> {
  // The same order of preference as transformers', so that both read the same values from a directory with leftovers.
  if (files.includes(weightsName)) return openSafetensors(join(directory, weightsName)).tensors;
  if (files.includes(indexName)) return openShards(directory, join(directory, indexName));
  const pickle = refusePickle(directory, files);
  if (pickle) throw pickle;
  throw new EspalierError(
    "checkpoint-missing",
    `${directory}: has no weights: neither ${weightsName} nor ${indexName}. Fetch them, or save the model there in safetensors form.`,
  );
}

function openShards(directory: string, indexFile: string): Map<string, FileStorage> {
  const weightMap = readJsonObject(indexFile).weight_map;
  if (typeof weightMap !== "object" || weightMap === null || Array.isArray(weightMap)) {
    throw new EspalierError(
      "checkpoint-index",
      `${indexFile}: "weight_map" must map tensor names to shard files. Fetch or save the index again.`,
    );
  }
  const shards = new Map<string, Map<string, FileStorage>>();
  const tensors = new Map<string, FileStorage>();
  for (const [name, shard] of Object.entries(weightMap)) {
    if (typeof shard !== "string" || !isInnerPath(shard)) {
      throw new EspalierError(
        "checkpoint-index",
        `${indexFile}: tensor ${quoteName(name)} is placed in ${quoteName(String(shard))}, which is not a path inside the directory. Do not use this checkpoint unless you know why.`,
      );
    }
    let opened = shards.get(shard);
    if (!opened) {
      const path = join(directory, shard);
      if (!existsSync(path)) {
        throw new EspalierError(
          "checkpoint-missing",
          `${indexFile}: names the shard ${quoteName(shard)} (for tensor ${quoteName(name)}), which is not in the directory. Fetch the missing shard.`,
        );
      }
      opened = openSafetensors(path).tensors;
      shards.set(shard, opened);
    }
    const storage = opened.get(name);
    if (!storage) {
      throw new EspalierError(
        "checkpoint-index",
        `${indexFile}: places tensor ${quoteName(name)} in ${quoteName(shard)}, which does not hold it. Index and shards are of different models: fetch both again.`,
      );
    }
    tensors.set(name, storage);
  }
  return tensors;
}
