/** A LoRA adapter as a GGUF file, which llama.cpp puts on the base model's GGUF file (`llama-cli --lora`). */
import { EspalierError } from "../../graph/errors.ts";
import type { MemoryStorage, Storage } from "../../graph/storage.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import type { PeftAdapter } from "../peft-adapter.ts";
import { loraScaling, unsupportedPeftOptions } from "../peft-config.ts";
import { quoteName } from "../safetensors-header.ts";
import { type Architecture, architectures } from "./architectures.ts";
import { ggufModule, type HeadCounts, reorderedHeads, toLlamaCppOrder } from "./hf-names.ts";
import { writeGguf } from "./write-gguf.ts";

/**
 * Writes `<module>.weight.lora_a` [rank, in] and `.lora_b` [out, rank] in float32 for every adapted module. llama.cpp scales each update by
 * alpha / rank with one alpha for the file; where rank-stabilised scaling or alpha patterns ask for another scale, it goes into `lora_b`.
 *
 * @param adapter as {@link readPeftAdapter} gives it
 * @param base the base model's Hugging Face configuration: heads, and whether the head is tied
 * @returns the adapted modules under their GGUF names
 * @throws EspalierError `adapter-not-gguf` (what llama.cpp has no place for), `disk-full`, `not-writable`
 */
export function saveLoraGguf(file: string, adapter: PeftAdapter, base: unknown): { modules: string[] } {
  const { architecture, heads } = baseOf(file, base);
  const { config } = adapter;
  if (config.peft_type !== "LORA") throw notGguf(file, `it is of the kind ${config.peft_type}; a GGUF adapter holds low-rank updates only`);
  // llama.cpp computes less than we do.
  const more = (["use_dora", "lora_bias", "trainable_token_indices"] as const).filter((option) => config[option]);
  const unsupported = [...unsupportedPeftOptions(config), ...more.map((option) => ({ option, value: config[option] }))];
  if (unsupported.length > 0)
    throw notGguf(
      file,
      `it uses ${unsupported.map((o) => `${o.option} = ${JSON.stringify(o.value)}`).join(", ")}, which llama.cpp does not compute`,
    );
  const tensors = new Map<string, Storage>();
  const modules: string[] = [];
  for (const [name, storage] of adapter.tensors) {
    const path = /^(.+)\.lora_A\.weight$/.exec(name)?.[1];
    if (path === undefined) {
      if (/\.lora_B\.weight$/.test(name)) continue; // beside its A
      throw notGguf(
        file,
        `it holds ${quoteName(name)}, which was trained in full; a GGUF adapter holds low-rank updates only. Merge the adapter (espalier merge) and convert the merged model`,
      );
    }
    const module = place(file, path, architecture, base);
    const { rank, scale } = loraScaling(config, path);
    // What is left when llama.cpp has multiplied by alpha / rank.
    const rest = (scale * rank) / config.lora_alpha;
    const b = floats(adapter.tensors.get(`${path}.lora_B.weight`)!);
    const rows = b.shape[0]!;
    const count = reorderedHeads(architecture, `${module}.weight`, heads);
    if (count !== undefined && (rows / count) % 2 !== 0)
      throw notGguf(
        file,
        `"${path}" has ${rows} outputs, which do not divide into the base model's ${count} heads: it belongs to another base model`,
      );
    const ordered = count === undefined ? b.data : toLlamaCppOrder(b.data, rows, count);
    tensors.set(`${module}.weight.lora_a`, floats(storage));
    tensors.set(`${module}.weight.lora_b`, { ...b, data: rest === 1 ? ordered : ordered.map((value) => value * rest) });
    modules.push(module);
  }
  if (modules.length === 0) throw notGguf(file, "it has no low-rank update");
  const metadata = {
    "general.architecture": architecture.name,
    "general.type": "adapter",
    "adapter.type": "lora",
    "adapter.lora.alpha": { float32: config.lora_alpha },
  };
  writeGguf(file, metadata, tensors);
  return { modules };
}

function baseOf(file: string, base: unknown): { architecture: Architecture; heads: HeadCounts } {
  const { model_type: family, num_attention_heads: query, num_key_value_heads: key } = base as Record<string, unknown>;
  const architecture = architectures.find(({ modelType }) => modelType === family);
  if (!architecture) {
    const known = architectures.map(({ modelType }) => `"${modelType}"`).join(", ");
    throw notGguf(file, `its base model is of the family ${JSON.stringify(family)}; adapters of ${known} models can be written`);
  }
  if (typeof query !== "number") throw notGguf(file, `the base model's configuration has no "num_attention_heads"`);
  return { architecture, heads: { query, key: typeof key === "number" ? key : query } };
}

function place(file: string, path: string, architecture: Architecture, base: unknown): string {
  const module = ggufModule(path);
  if (module === undefined) throw notGguf(file, `llama.cpp has no module for "${path}" in a "${architecture.name}" model`);
  if (module === "token_embd") throw notGguf(file, "it adapts the embedding, which is not written; adapt linear layers");
  if (module === "output" && (base as { tie_word_embeddings?: unknown }).tie_word_embeddings === true)
    throw notGguf(
      file,
      `it adapts "${path}", but the base model's head is the embedding itself ("tie_word_embeddings"), and its GGUF file has no tensor for the update. Merge the adapter instead (espalier merge), or train without the head as a target`,
    );
  return module;
}

function floats(storage: Storage): MemoryStorage & { data: Float32Array } {
  return { kind: "memory", dtype: "float32", shape: storage.shape, data: readStorage(storage, "float32") as Float32Array };
}

const notGguf = (file: string, why: string) =>
  new EspalierError("adapter-not-gguf", `${file}: the adapter cannot be written as GGUF: ${why}.`);
