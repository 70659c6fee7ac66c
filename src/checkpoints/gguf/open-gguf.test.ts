import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { openCheckpoint } from "../hf-directory.ts";
import { refusal } from "../refusal.ts";
import { openSafetensors } from "../safetensors.ts";
import { writeGguf } from "./write-gguf.ts";

const fixtures = new URL("../../../tests/fixtures/gguf-tiny/", import.meta.url).pathname;
const expected = openSafetensors(join(fixtures, "expected.safetensors")).tensors;
const models = ["llama-f32", "llama-16bit", "llama-quantized", "llama-k"];
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-gguf-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

describe.each(models)("%s", (name) => {
  const { config, tensors } = openCheckpoint(join(fixtures, `${name}.gguf`));

  test.each(["self_attn.k_proj", "mlp.down_proj"])("%s has the values of the original model, in its order", (path) => {
    const key = `model.layers.0.${path}.weight`;
    const reference = expected.get(`${name}.${key}`)!;
    const storage = tensors.get(key)!;
    const values = readStorage(storage, "float32") as Float32Array;
    expect(values.subarray(0, reference.shape[0]! * storage.shape[1]!)).toEqual(readStorage(reference));
  });

  test("has the configuration that it was converted from", () => {
    expect(config).toMatchObject({
      model_type: "llama",
      vocab_size: 320,
      num_attention_heads: 4,
      num_key_value_heads: name === "llama-k" ? 1 : 2,
      head_dim: name === "llama-k" ? 64 : 8,
      rms_norm_eps: 1e-5,
      rope_theta: 50000,
      rope_scaling: null,
      max_position_embeddings: 64,
      tie_word_embeddings: name !== "llama-f32",
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: 0,
    });
  });
});

test("floats in the right order stay in the file; others are computed when asked for", () => {
  const kinds = (name: string) =>
    Object.fromEntries(
      [...openCheckpoint(join(fixtures, `${name}.gguf`)).tensors].map(([key, { kind, dtype }]) => [key, `${kind} ${dtype}`]),
    );
  expect(kinds("llama-f32")).toMatchObject({
    "model.embed_tokens.weight": "file float32",
    "lm_head.weight": "file float32",
    "model.layers.1.self_attn.q_proj.weight": "lazy float32",
    "model.layers.1.self_attn.v_proj.weight": "file float32",
  });
  expect(new Set(Object.values(kinds("llama-16bit")))).toEqual(
    new Set(["file float16", "file bfloat16", "lazy float16", "lazy bfloat16", "file float32"]),
  );
  expect(kinds("llama-quantized")["model.embed_tokens.weight"]).toBe("lazy float32");
});

test("Qwen's rows are in Hugging Face's order already; Qwen3 has heads of their own width and norms", () => {
  const qwen2 = openCheckpoint(join(fixtures, "qwen2.gguf"));
  expect(qwen2.config).toMatchObject({ model_type: "qwen2", architectures: ["Qwen2ForCausalLM"], head_dim: 8, attention_bias: false });
  expect(qwen2.tensors.get("model.layers.0.self_attn.q_proj.bias")).toMatchObject({ kind: "file", shape: [32] });
  const qwen3 = openCheckpoint(join(fixtures, "qwen3.gguf"));
  expect(qwen3.config).toMatchObject({ model_type: "qwen3", head_dim: 16, tie_word_embeddings: false });
  expect(qwen3.tensors.get("model.layers.1.self_attn.k_norm.weight")!.shape).toEqual([16]);
  for (const [name, { config, tensors }] of Object.entries({ qwen2, qwen3 })) {
    const key = "model.layers.0.self_attn.k_proj.weight";
    const reference = expected.get(`${name}.${key}`)!;
    const values = readStorage(tensors.get(key)!) as Float32Array;
    expect(values.subarray(0, 16 * (config as { hidden_size: number }).hidden_size)).toEqual(readStorage(reference));
  }
});

describe("a directory", () => {
  const fresh = (name: string) => {
    const path = join(directory, name);
    mkdirSync(path);
    return path;
  };

  test("with one GGUF file and no config.json opens as that file", async () => {
    const path = fresh("one");
    copyFileSync(join(fixtures, "llama-quantized.gguf"), join(path, "model.Q4.GGUF"));
    const { tensors, configFile, files } = openCheckpoint(path);
    expect(tensors.size).toBe(20);
    expect(configFile).toBe(join(path, "model.Q4.GGUF"));
    expect(files).toEqual(["model.Q4.GGUF"]);
    expect((await tokenizerFromDirectory(path)).vocabSize).toBe(320);
  });

  test("with several asks for one of them", () => {
    const path = fresh("several");
    for (const name of ["a.gguf", "b.gguf"]) copyFileSync(join(fixtures, "llama-quantized.gguf"), join(path, name));
    expect(refusal(() => openCheckpoint(path), directory)).toEqual({
      code: "checkpoint-ambiguous",
      message: "…/several: holds 2 GGUF files (a.gguf, b.gguf). Give one of them, as in …/several/a.gguf.",
    });
  });

  test("a file that does not exist", () => {
    expect(refusal(() => openCheckpoint(join(directory, "no.gguf")), directory)).toMatchObject({
      code: "checkpoint-missing",
      message: "…/no.gguf: cannot be read, there is no such file. Check the path.",
    });
  });
});

describe("models that are not run", () => {
  /** Keys of a small model, changed; the values of tensors are not looked at. */
  function file(
    changes: Record<string, string | { uint32: number } | { float32: number } | undefined>,
    tensors: Record<string, number[]> = {},
  ): string {
    const keys: Record<string, string | { uint32: number } | { float32: number } | undefined> = {
      "general.architecture": "llama",
      "llama.block_count": { uint32: 1 },
      "llama.context_length": { uint32: 131072 },
      "llama.embedding_length": { uint32: 16 },
      "llama.feed_forward_length": { uint32: 16 },
      "llama.attention.head_count": { uint32: 2 },
      "llama.attention.layer_norm_rms_epsilon": { float32: 1e-6 },
      "llama.rope.freq_base": { float32: 500000 },
      "llama.vocab_size": { uint32: 8 },
      ...changes,
    };
    const path = join(directory, "model.gguf");
    const given = Object.entries(keys).filter((entry): entry is [string, string | { uint32: number }] => entry[1] !== undefined);
    const storages = Object.entries(tensors).map(
      ([name, values]) => [name, { kind: "memory", dtype: "float32", shape: [values.length], data: Float32Array.from(values) }] as const,
    );
    writeGguf(path, Object.fromEntries(given), new Map(storages));
    return path;
  }
  const open = (...args: Parameters<typeof file>) => refusal(() => openCheckpoint(file(...args)), `${directory}/`);
  const config = (...args: Parameters<typeof file>) => openCheckpoint(file(...args)).config as Record<string, unknown>;

  test("another architecture, an adapter, a part, experts", () => {
    expect(open({ "general.architecture": "mamba" })).toMatchObject({
      code: "unsupported-model",
      message: expect.stringContaining('…model.gguf: its architecture is "mamba"'),
    });
    expect(open({ "general.type": "adapter" }).message).toContain("holds an adapter, not a model");
    expect(open({ "split.count": { uint32: 3 } }).message).toContain("is one of 3 parts of a model. Join them with llama.cpp first");
    expect(open({ "llama.expert_count": { uint32: 8 } }).message).toContain("a mixture of 8 experts");
    expect(open({ "llama.block_count": undefined })).toMatchObject({
      code: "checkpoint-header",
      message: '…model.gguf: has no key "llama.block_count", which a model needs. Convert the model again.',
    });
  });

  test("heads that are rotated in part, or whose values have another width", () => {
    expect(open({ "llama.rope.dimension_count": { uint32: 4 }, "llama.attention.key_length": { uint32: 8 } })).toMatchObject({
      code: "unsupported-rope",
      message: expect.stringContaining("rotates 4 of the 8 elements of a head"),
    });
    expect(open({ "llama.attention.value_length": { uint32: 4 } }).message).toContain("its keys have 8 elements per head and its values 4");
  });

  test("scaling of the rotary embedding is what the Hugging Face configuration says", () => {
    expect(config({}).rope_scaling).toBeNull();
    expect(config({ "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": { float32: 4 } }).rope_scaling).toEqual({
      rope_type: "linear",
      factor: 4,
    });
    expect(
      config({
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": { float32: 8 },
        "llama.rope.scaling.original_context_length": { uint32: 4096 },
      }).rope_scaling,
    ).toEqual({ rope_type: "yarn", factor: 8, original_max_position_embeddings: 4096 });
  });

  test("Llama 3's factors are told by their values, and others refused", () => {
    // Wavelengths 2π·500000^(i/4): 6, 167, 4443 and 118148 tokens; the first two turn more than 4 times in 8192, the last less than once.
    const turns = 8192 / (2 * Math.PI * 500000 ** 0.5);
    const smooth = (turns - 1) / 3;
    const factors = [1, 1, 1 / ((1 - smooth) / 8 + smooth), 8];
    expect(config({}, { "rope_freqs.weight": factors }).rope_scaling).toEqual({
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    });
    expect(open({}, { "rope_freqs.weight": [1, 2, 3, 8] })).toMatchObject({
      code: "unsupported-rope",
      message: expect.stringContaining(`the tensor "rope_freqs.weight" does not hold Llama 3's factors (value 1 is 2, not 1)`),
    });
    expect(open({}, { "rope_freqs.weight": [1] }).message).toContain("must be 4 values of F32");
  });

  test("tensors that do not divide into the heads of the metadata", () => {
    const content = readFileSync(join(fixtures, "llama-quantized.gguf"));
    const key = "llama.attention.head_count_kv";
    content.writeUInt32LE(3, content.indexOf(key) + key.length + 4);
    const path = join(directory, "heads.gguf");
    writeFileSync(path, content);
    expect(refusal(() => openCheckpoint(path))).toMatchObject({
      code: "checkpoint-shape",
      message: expect.stringContaining('tensor "blk.0.attn_k.weight" has 16 rows, which do not divide into 3 heads'),
    });
  });
});
