import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import {
  bfloat16ToFloat32,
  float32ToBfloat16,
  openCheckpoint,
  openSafetensors,
  readStorage,
  writeSafetensors,
} from "../checkpoints/index.ts";
import { refusal } from "../checkpoints/refusal.ts";
import type { Storage } from "../graph/index.ts";
import { floats } from "../nn/index.ts";
import { LlamaForCausalLM, LlamaForSequenceClassification, loadCausalLM, loadSequenceClassifier, saveModel } from "./index.ts";

const fixtures = new URL("../../tests/fixtures/", import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), "espalier-load-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let count = 0;

const loadLlama = (directory: string) => loadCausalLM(directory) as LlamaForCausalLM;
const loadClassifier = (...args: Parameters<typeof loadSequenceClassifier>) =>
  loadSequenceClassifier(...args) as LlamaForSequenceClassification;

/** A copy of a fixture with other config keys (undefined removes one) and other tensors. */
function altered(name: string, config: Record<string, unknown> = {}, tensors?: (found: Map<string, Storage>) => void): string {
  const directory = join(scratch, `case-${count++}`);
  cpSync(join(fixtures, name), directory, { recursive: true });
  writeFileSync(join(directory, "config.json"), JSON.stringify({ ...configOf(directory), ...config }));
  if (tensors) {
    const found = new Map<string, Storage>(openCheckpoint(directory).tensors);
    tensors(found);
    writeSafetensors(join(directory, "model.safetensors"), found);
  }
  return directory;
}

const configOf = (directory: string) => JSON.parse(readFileSync(join(directory, "config.json"), "utf8")) as Record<string, unknown>;
const tensor = (shape: number[]) => floats(shape, new Float32Array(shape.reduce((a, b) => a * b, 1)));
const values = (storage: Storage) => readStorage(storage, "float32") as Float32Array;

describe("weights", () => {
  test("in float32 stay in their file, to be mapped", () => {
    for (const parameter of loadLlama(join(fixtures, "llama-tiny")).parameters()) {
      expect(parameter.storage).toMatchObject({ kind: "file", file: join(fixtures, "llama-tiny", "model.safetensors") });
      expect(parameter.frozen).toBe(false);
    }
  });

  test("in bfloat16 stay in their files too, and are widened by whoever reads them", () => {
    const wide = loadLlama(join(fixtures, "llama-tiny")).model.norm.weight;
    const { storage } = loadLlama(join(fixtures, "llama-tiny-sharded-bf16")).model.norm.weight;
    expect(storage).toMatchObject({ kind: "file", dtype: "bfloat16" });
    expect(values(storage)).toEqual(bfloat16ToFloat32(float32ToBfloat16(values(wide.storage))));
  });

  test("of biases are loaded where the configuration asks for them", () => {
    const directory = altered("llama-tiny-tied", { attention_bias: true, mlp_bias: true }, (found) => {
      for (const layer of [0, 1]) {
        for (const [name, size] of Object.entries({ q: 48, k: 24, v: 24, o: 48 }))
          found.set(`model.layers.${layer}.self_attn.${name}_proj.bias`, tensor([size]));
        for (const [name, size] of Object.entries({ gate: 96, up: 96, down: 48 }))
          found.set(`model.layers.${layer}.mlp.${name}_proj.bias`, tensor([size]));
      }
    });
    expect(loadLlama(directory).parameters()).toHaveLength(2 + 2 * 9 + 2 * 7);
  });

  test("that are missing, extra or of another shape are listed at once", () => {
    const directory = altered("llama-tiny", {}, (found) => {
      found.delete("model.norm.weight");
      found.set("model.nrom.weight", tensor([48]));
      found.set("lm_head.weight", tensor([100, 48]));
    });
    const { code, message } = refusal(() => loadLlama(directory), directory);
    expect(code).toBe("checkpoint-mismatch");
    expect(message).toContain("…: the checkpoint does not fit the model (21 tensors expected, 21 found)");
    expect(message).toContain('"model.norm.weight" (nearest in the checkpoint: "model.nrom.weight")');
    expect(message).toContain('"lm_head.weight" (expected [128, 48], found [100, 48])');
  });

  test("of rotary tables that old files carry are left out", () => {
    const directory = altered("llama-tiny", {}, (found) => found.set("model.layers.0.self_attn.rotary_emb.inv_freq", tensor([6])));
    expect(loadLlama(directory).parameters()).toHaveLength(21);
  });

  test("that are quantised are refused", () => {
    const directory = altered("llama-tiny", {}, (found) =>
      found.set("model.norm.weight", { kind: "memory", dtype: "int8", shape: [48], data: new Int8Array(48) }),
    );
    expect(refusal(() => loadLlama(directory), directory)).toEqual({
      code: "checkpoint-dtype",
      message:
        '…/model.safetensors: the weight "model.norm.weight" is int8. Weights must be float32, float16, bfloat16 or float64: use a checkpoint that is not quantised.',
    });
  });
});

describe("a tied head", () => {
  test("may stand in the file a second time", () => {
    const directory = altered("llama-tiny-tied", {}, (found) => found.set("lm_head.weight", found.get("model.embed_tokens.weight")!));
    expect(loadLlama(directory).lm_head).toBeUndefined();
  });

  test("of other values is refused", () => {
    const directory = altered("llama-tiny-tied", {}, (found) => found.set("lm_head.weight", tensor([128, 48])));
    expect(refusal(() => loadLlama(directory), directory)).toMatchObject({
      code: "checkpoint-mismatch",
      message: expect.stringContaining('Set "tie_word_embeddings": false if the head was trained apart'),
    });
  });
});

describe("config.json", () => {
  const refused = (config: Record<string, unknown>) => {
    const directory = altered("llama-tiny", config);
    return refusal(() => loadLlama(directory), directory);
  };

  test("takes rope_theta from rope_parameters, or from the top level as older files have it", () => {
    const theta = (config: Record<string, unknown>) => loadLlama(altered("llama-tiny", config)).config.rope_theta;
    expect(loadLlama(join(fixtures, "llama-tiny-tied")).config.rope_theta).toBe(500000);
    expect(theta({ rope_parameters: undefined, rope_theta: 1234 })).toBe(1234);
    expect(theta({ rope_parameters: undefined })).toBe(10000);
    expect(theta({ rope_parameters: undefined, rope_theta: 7, rope_scaling: null })).toBe(7);
  });

  test("with a rotary embedding that is not computed, or lacks a number, is refused with the reason", () => {
    const { code, message } = refused({ rope_parameters: { rope_type: "dynamic", rope_theta: 500000, factor: 8 } });
    expect(code).toBe("unsupported-rope");
    expect(message).toMatch(
      /^…\/config\.json: asks for the rotary embedding "dynamic", which stretches positions .* Espalier has default, linear/,
    );
    expect(refused({ rope_parameters: undefined, rope_scaling: { type: "llama3", factor: 2 } })).toEqual({
      code: "bad-config",
      message: '…/config.json: The rotary embedding "llama3" needs "low_freq_factor" in "rope_parameters" or "rope_scaling".',
    });
  });

  test("of another family is refused with the nearest one and what differs", () => {
    const { code, message } = refused({ model_type: "granite" });
    expect(code).toBe("unsupported-model");
    expect(message).toContain(
      '…/config.json: Espalier does not run the model type "granite" yet; the nearest that it runs is "llama" (Llama, SmolLM, SmolLM2, TinyLlama, Mistral). What differs: it scales the embedding, the residuals, the scores and the logits. Supported: llama, mistral',
    );
    expect(refused({ model_type: "zebra" }).message).toContain("how it differs is not known");
    expect(refused({ model_type: undefined }).message).toContain('"model_type" is missing, so the architecture is not known');
  });

  test("with wrong or missing keys names all of them", () => {
    const { code, message } = refused({ hidden_size: "48", vocab_size: undefined, hidden_act: "gulu", num_hidden_layers: -1 });
    expect(code).toBe("bad-config");
    expect(message).toContain("…/config.json does not describe a model:\n");
    expect(message).toContain('  "vocab_size" is missing\n');
    expect(message).toContain('  "hidden_size" is "48": Invalid input: expected number, received string\n');
    expect(message).toContain('  "hidden_act" is "gulu": Invalid option');
    expect(message).toContain('  "num_hidden_layers" is -1: Too small');
  });

  test("whose numbers contradict each other is refused", () => {
    expect(refused({ num_key_value_heads: 3 }).message).toContain(
      '"num_attention_heads" (4) must be a multiple of "num_key_value_heads" (3)',
    );
    expect(refused({ num_attention_heads: 5, num_key_value_heads: 5, head_dim: null }).message).toContain(
      '"hidden_size" (48) must be a multiple of "num_attention_heads" (5)',
    );
    expect(refused({ head_dim: 11 }).message).toContain("the width of a head (11) must be even");
  });

  test("of a directory that does not exist", () => {
    expect(refusal(() => loadLlama(join(scratch, "nowhere")), scratch).message).toContain(
      "…/nowhere: cannot be opened, there is no such directory.",
    );
  });
});

describe("a classifier", () => {
  test("from a language model has a fresh head, the same for the same seed", () => {
    const model = loadClassifier(join(fixtures, "llama-tiny"), ["ham", "spam"], { seed: 3 });
    expect(model).toBeInstanceOf(LlamaForSequenceClassification);
    expect(model.score.weight.shape).toEqual([2, 48]);
    const again = loadClassifier(join(fixtures, "llama-tiny"), ["ham", "spam"], { seed: 3 });
    expect(values(model.score.weight.storage)).toEqual(values(again.score.weight.storage));
    expect(model.model.norm.weight.storage.kind).toBe("file");
  });

  test("is saved with its labels and refuses others", () => {
    const source = join(fixtures, "llama-tiny");
    const model = loadClassifier(source, ["ham", "spam"]);
    const directory = join(scratch, "classifier");
    saveModel(directory, model, { source, labels: ["ham", "spam"] });
    expect(configOf(directory)).toMatchObject({
      architectures: ["LlamaForSequenceClassification"],
      id2label: { 0: "ham", 1: "spam" },
      label2id: { ham: 0, spam: 1 },
    });
    expect(values(loadClassifier(directory, ["ham", "spam"]).score.weight.storage)).toEqual(values(model.score.weight.storage));
    expect(readdirSync(directory)).not.toContain("generation_config.json");
    expect(refusal(() => loadClassifier(directory, ["spam", "ham"]), directory)).toEqual({
      code: "labels-mismatch",
      message:
        "…: its classification head was trained for the labels ham, spam, in this order, not for spam, ham. Give the labels as the checkpoint has them, or start from a model without a head.",
    });
    expect(refusal(() => loadLlama(directory)).code).toBe("checkpoint-mismatch");
  });
});

describe("saving", () => {
  const source = altered("llama-tiny", { our_own_key: { kept: [1, 2] } });
  writeFileSync(join(source, "tokenizer.json"), "{}");
  writeFileSync(join(source, "LICENSE"), "licence text");
  writeFileSync(join(source, "notes.txt"), "not the model's");
  mkdirSync(join(source, "tokenizer_config.json.d"));
  const model = loadLlama(source);

  test("in float32 keeps every value and every key of the source, and copies tokenizer and licence", () => {
    const directory = join(scratch, "f32");
    saveModel(directory, model, { source, dtype: "f32" });
    expect(configOf(directory)).toEqual({ ...configOf(source), dtype: "float32" });
    expect(readdirSync(directory)).toEqual(["LICENSE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
    const saved = loadLlama(directory);
    for (const [i, parameter] of saved.parameters().entries())
      expect(values(parameter.storage)).toEqual(values(model.parameters()[i]!.storage));
    expect(openSafetensors(join(directory, "model.safetensors")).metadata).toEqual({ format: "pt" });
  });

  test("in bfloat16 rounds", () => {
    const directory = join(scratch, "bf16");
    saveModel(directory, model, { source, dtype: "bf16" });
    expect(configOf(directory).dtype).toBe("bfloat16");
    const weight = values(model.lm_head!.weight.storage);
    expect(values(loadLlama(directory).lm_head!.weight.storage)).toEqual(bfloat16ToFloat32(float32ToBfloat16(weight)));
  });

  test("what was loaded in bfloat16 streams unchanged into bfloat16, and widened into float32", () => {
    const narrow = loadLlama(join(fixtures, "llama-tiny-sharded-bf16"));
    const wide = values(narrow.lm_head!.weight.storage);
    for (const dtype of ["bf16", "f32"] as const) {
      const directory = join(scratch, `from-bf16-${dtype}`);
      saveModel(directory, narrow, { dtype });
      const { storage } = loadLlama(directory).lm_head!.weight;
      expect(storage.dtype).toBe(dtype === "bf16" ? "bfloat16" : "float32");
      expect(values(storage)).toEqual(wide);
    }
  });

  test("without a source writes the model's own configuration", () => {
    const directory = join(scratch, "own");
    const own = new LlamaForCausalLM(model.config, 5);
    saveModel(directory, own);
    expect(configOf(directory)).toMatchObject({ our_own_key: { kept: [1, 2] }, architectures: ["LlamaForCausalLM"] });
    expect(values(loadLlama(directory).model.norm.weight.storage)).toEqual(values(own.model.norm.weight.storage));
  });

  test("without a source keeps floats floats, which transformers asks of some fields", () => {
    const directory = join(scratch, "floats");
    saveModel(directory, new LlamaForCausalLM({ ...model.config, initializer_range: 1, rope_theta: 10000 }));
    const text = readFileSync(join(directory, "config.json"), "utf8");
    expect(text).toContain('"initializer_range": 1.0,');
    expect(text).toContain('"rope_theta": 10000,');
  });

  test("over the file that the weights are mapped from is refused", () => {
    expect(refusal(() => saveModel(source, model, { source }), source)).toEqual({
      code: "save-onto-source",
      message: "…: the model's weights are mapped from …/model.safetensors, which saving here would replace. Save into another directory.",
    });
  });
});
