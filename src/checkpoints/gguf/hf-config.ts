/** The metadata of a GGUF file → the `config.json` that its converter read. */
import { EspalierError } from "../../graph/errors.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { type Architecture, architectures } from "./architectures.ts";
import type { GgufFile } from "./gguf-file.ts";

/** Frequencies of the rotary embedding, as numbers to divide them by; llama.cpp stores Llama 3's long-context scaling so. */
export const ropeFactors = "rope_freqs.weight";

/**
 * @throws EspalierError `unsupported-model`, `unsupported-rope`, `checkpoint-header`
 */
export function hfConfig(gguf: GgufFile): { architecture: Architecture; config: Record<string, unknown> } {
  const architecture = architectureOf(gguf);
  const key = (name: string) => `${architecture.name}.${name}`;
  const count = (name: string): number => gguf.require(key(name), perModel(gguf, key(name)));
  const heads = count("attention.head_count");
  const hidden = count("embedding_length");
  const headDim = perModel(gguf, key("attention.key_length")) ?? perModel(gguf, key("rope.dimension_count")) ?? hidden / heads;
  checkHeads(gguf, architecture.name, headDim);
  const embedding = gguf.tensors.get("token_embd.weight");
  const theta = short(gguf.number(key("rope.freq_base"))) ?? 10000;
  const config = {
    architectures: [architecture.className],
    model_type: architecture.modelType,
    vocab_size: embedding?.shape[0] ?? count("vocab_size"),
    hidden_size: hidden,
    intermediate_size: count("feed_forward_length"),
    num_hidden_layers: count("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: perModel(gguf, key("attention.head_count_kv")) ?? heads,
    head_dim: headDim,
    hidden_act: "silu",
    max_position_embeddings: count("context_length"),
    rms_norm_eps: short(gguf.require(key("attention.layer_norm_rms_epsilon"), gguf.number(key("attention.layer_norm_rms_epsilon")))),
    rope_theta: theta,
    rope_scaling: ropeScaling(gguf, architecture.name, theta, headDim),
    // Qwen2's query, key and value always have one.
    attention_bias: architecture.modelType !== "qwen2" && gguf.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: gguf.tensors.has("blk.0.ffn_down.bias"),
    tie_word_embeddings: !gguf.tensors.has("output.weight"),
    torch_dtype: "float32",
    ...specialTokens(gguf),
  };
  return { architecture, config };
}

function architectureOf(gguf: GgufFile): Architecture {
  const kind = gguf.string("general.type") ?? "model";
  if (kind !== "model") {
    throw new EspalierError(
      "unsupported-model",
      `${gguf.file}: holds ${kind === "adapter" ? "an adapter" : `a ${JSON.stringify(kind)}`}, not a model. Give the GGUF file of the model itself.`,
    );
  }
  const shards = gguf.count("split.count") ?? 1;
  if (shards > 1) {
    throw new EspalierError(
      "unsupported-model",
      `${gguf.file}: is one of ${shards} parts of a model. Join them with llama.cpp first: llama-gguf-split --merge <first part> <joined file>.`,
    );
  }
  const found = gguf.require("general.architecture", gguf.string("general.architecture"));
  const architecture = architectures.find(({ name }) => name === found);
  if (!architecture) {
    const known = architectures.map(({ name }) => `"${name}"`).join(", ");
    throw new EspalierError(
      "unsupported-model",
      `${gguf.file}: its architecture is ${JSON.stringify(found)}; of GGUF files Espalier reads ${known} ("llama" is Llama, Mistral, SmolLM, TinyLlama). Use the model's Hugging Face checkpoint if Espalier has the family.`,
    );
  }
  const experts = gguf.count(`${found}.expert_count`) ?? 0;
  if (experts > 0) {
    throw new EspalierError(
      "unsupported-model",
      `${gguf.file}: its feed-forward is a mixture of ${experts} experts, which Espalier does not run. Choose a dense model.`,
    );
  }
  return architecture;
}

/** A count that may be listed per layer; Espalier runs models whose layers are all alike. */
function perModel(gguf: GgufFile, key: string): number | undefined {
  if (!gguf.isList(key)) return gguf.count(key);
  const [first, ...others] = gguf.numbers(key)!;
  if (first !== undefined && others.every((value) => value === first)) return first;
  throw new EspalierError(
    "unsupported-model",
    `${gguf.file}: the layers differ in ${JSON.stringify(key)}; Espalier runs models whose layers have one shape. Choose another model.`,
  );
}

function checkHeads(gguf: GgufFile, architecture: string, headDim: number): void {
  const value = perModel(gguf, `${architecture}.attention.value_length`) ?? headDim;
  if (value !== headDim) {
    throw new EspalierError(
      "unsupported-model",
      `${gguf.file}: its keys have ${headDim} elements per head and its values ${value}; Espalier needs the same for both. Choose another model.`,
    );
  }
  const rotated = perModel(gguf, `${architecture}.rope.dimension_count`) ?? headDim;
  if (rotated !== headDim) {
    throw new EspalierError(
      "unsupported-rope",
      `${gguf.file}: rotates ${rotated} of the ${headDim} elements of a head; Espalier rotates whole heads only. Choose another model.`,
    );
  }
}

/** A float32 as the decimal that it was written from: 9.999999747378752e-6 is 1e-5. */
function short(value: number | undefined): number | undefined {
  if (value === undefined) return undefined;
  const rounded = Number(value.toPrecision(7));
  return Math.fround(rounded) === Math.fround(value) ? rounded : value;
}

/** In the form of a Hugging Face config; `null` is none. */
function ropeScaling(gguf: GgufFile, architecture: string, theta: number, headDim: number): Record<string, unknown> | null {
  const key = (name: string) => `${architecture}.rope.scaling.${name}`;
  const factor = short(gguf.number(key("factor")) ?? gguf.number(`${architecture}.rope.scale_linear`));
  const original = gguf.count(key("original_context_length"));
  const kind = gguf.string(key("type")) ?? (factor === undefined ? "none" : "linear");
  if (gguf.tensors.has(ropeFactors)) return llama3Scaling(gguf, theta, headDim);
  if (kind === "none" || (kind === "linear" && (factor === undefined || factor === 1 || factor === 0))) return null;
  return {
    rope_type: kind,
    ...(factor !== undefined && { factor }),
    ...(original !== undefined && { original_max_position_embeddings: original }),
  };
}

/**
 * The parameters that Llama 3.1 and later are published with; the tensor must be what follows from them, or the model would compute other numbers.
 * Long wavelengths are divided by `factor`, short ones are kept, those between are blended.
 */
function llama3Scaling(gguf: GgufFile, theta: number, headDim: number): Record<string, unknown> {
  const tensor = gguf.tensors.get(ropeFactors)!;
  const [low, high, original] = [1, 4, 8192];
  const refused = (what: string) =>
    new EspalierError(
      "unsupported-rope",
      `${gguf.file}: the tensor "${ropeFactors}" ${what}, so the scaling of its rotary embedding is not known. Use the model's Hugging Face checkpoint.`,
    );
  if (tensor.type?.name !== "F32" || tensor.shape.length !== 1 || tensor.shape[0] !== headDim / 2)
    throw refused(`must be ${headDim / 2} values of F32`);
  const divisors = readStorage({
    kind: "file",
    dtype: "float32",
    shape: tensor.shape,
    file: gguf.path,
    offset: tensor.offset,
    byteLength: tensor.byteLength,
  }) as Float32Array;
  const factor = short(Math.max(...divisors))!;
  const expected = (i: number): number => {
    const turns = original / (2 * Math.PI * theta ** (i / (headDim / 2)));
    if (turns > high) return 1;
    if (turns < low) return factor;
    const smooth = (turns - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  };
  for (const [i, divisor] of divisors.entries())
    if (Math.abs(divisor - expected(i)) > 1e-3 * expected(i))
      throw refused(`does not hold Llama 3's factors (value ${i} is ${divisor}, not ${expected(i)})`);
  return {
    rope_type: "llama3",
    factor,
    low_freq_factor: low,
    high_freq_factor: high,
    original_max_position_embeddings: original,
  };
}

function specialTokens(gguf: GgufFile): Record<string, number> {
  const ids: Record<string, number> = {};
  for (const [theirs, ours] of [
    ["bos", "bos"],
    ["eos", "eos"],
    ["padding", "pad"],
  ]) {
    const id = gguf.count(`tokenizer.ggml.${theirs}_token_id`);
    if (id !== undefined) ids[`${ours}_token_id`] = id;
  }
  return ids;
}
