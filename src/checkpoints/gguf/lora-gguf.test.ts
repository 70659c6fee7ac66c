import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Storage } from "../../graph/storage.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { readJsonObject } from "../json-file.ts";
import { type PeftAdapter, readPeftAdapter } from "../peft-adapter.ts";
import { parsePeftConfig } from "../peft-config.ts";
import { refusal } from "../refusal.ts";
import { GgufFile } from "./gguf-file.ts";
import { fromLlamaCppOrder } from "./hf-names.ts";
import { saveLoraGguf } from "./lora-gguf.ts";
import { ggufStorage } from "./open-gguf.ts";

const fixtures = new URL("../../../tests/fixtures/", import.meta.url).pathname;
const base = { model_type: "llama", num_attention_heads: 2, num_key_value_heads: 1, tie_word_embeddings: true };
let directory: string;
let file: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-gguf-"));
  file = join(directory, "adapter.gguf");
});
afterAll(() => rmSync(directory, { recursive: true }));

const values = (gguf: GgufFile, name: string) => readStorage(ggufStorage(gguf, gguf.tensors.get(name)!)) as Float32Array;

test("an adapter of PEFT's has the tensors that llama.cpp's own converter makes of it", () => {
  const config = readJsonObject(join(fixtures, "llama-tiny", "config.json"));
  const { modules } = saveLoraGguf(file, readPeftAdapter(join(fixtures, "llama-tiny-lora")), config);
  expect(modules.sort()).toEqual(["blk.0.attn_q", "blk.0.attn_v", "blk.1.attn_q", "blk.1.attn_v"]);
  const [ours, theirs] = [GgufFile.open(file), GgufFile.open(join(fixtures, "gguf-lora", "llama-tiny-lora.gguf"))];
  for (const key of ["general.architecture", "general.type", "adapter.type"]) expect(ours.string(key)).toBe(theirs.string(key));
  expect(ours.number("adapter.lora.alpha")).toBe(theirs.number("adapter.lora.alpha"));
  expect([...ours.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
  for (const [name, { shape }] of theirs.tensors) {
    expect(ours.tensors.get(name)!.shape).toEqual(shape);
    expect(values(ours, name)).toEqual(values(theirs, name));
  }
});

/** An adapter of one module: A of ones [2, 4] and B [rows, 2] counting up from 1. */
function adapter(path: string, rows = 8, config: object = {}, more: Record<string, Storage> = {}): PeftAdapter {
  const a: Storage = { kind: "memory", dtype: "float32", shape: [2, 4], data: new Float32Array(8).fill(1) };
  const b: Storage = { kind: "memory", dtype: "float32", shape: [rows, 2], data: Float32Array.from({ length: 2 * rows }, (_, i) => i + 1) };
  return {
    config: parsePeftConfig({ peft_type: "LORA", r: 2, lora_alpha: 4, ...config }, "test"),
    tensors: new Map(Object.entries({ [`${path}.lora_A.weight`]: a, [`${path}.lora_B.weight`]: b, ...more })),
  };
}

test("a key projection's B is ordered by its own number of heads", () => {
  saveLoraGguf(file, adapter("model.layers.0.self_attn.k_proj"), base);
  const b = values(GgufFile.open(file), "blk.0.attn_k.weight.lora_b");
  // One head of 8: elements 0 and 4 are neighbours in llama.cpp.
  expect([...b]).toEqual([1, 2, 9, 10, 3, 4, 11, 12, 5, 6, 13, 14, 7, 8, 15, 16]);
  expect([...fromLlamaCppOrder(b, 8, 1)]).toEqual(Array.from({ length: 16 }, (_, i) => i + 1));
});

test("Qwen's rows stay in their order", () => {
  saveLoraGguf(file, adapter("model.layers.0.self_attn.k_proj"), { ...base, model_type: "qwen2" });
  const gguf = GgufFile.open(file);
  expect(gguf.string("general.architecture")).toBe("qwen2");
  expect([...values(gguf, "blk.0.attn_k.weight.lora_b")]).toEqual(Array.from({ length: 16 }, (_, i) => i + 1));
});

test("a scale other than alpha / rank goes into B", () => {
  saveLoraGguf(file, adapter("model.layers.0.mlp.up_proj", 8, { use_rslora: true }), base);
  const gguf = GgufFile.open(file);
  expect(gguf.number("adapter.lora.alpha")).toBe(4);
  // alpha / √rank = 4 / √2, of which llama.cpp applies 4 / 2.
  expect(values(gguf, "blk.0.ffn_up.weight.lora_b")[1]).toBeCloseTo(2 * Math.SQRT2, 6);
  expect(values(gguf, "blk.0.ffn_up.weight.lora_a")[0]).toBe(1);
});

test("what llama.cpp has no place for is refused, with what to do", () => {
  const refused = (given: PeftAdapter, config: object = base) => refusal(() => saveLoraGguf(file, given, config), directory);
  expect(refused(adapter("lm_head"))).toEqual({
    code: "adapter-not-gguf",
    message:
      '…/adapter.gguf: the adapter cannot be written as GGUF: it adapts "lm_head", but the base model\'s head is the embedding itself ("tie_word_embeddings"), and its GGUF file has no tensor for the update. Merge the adapter instead (espalier merge), or train without the head as a target.',
  });
  expect(saveLoraGguf(file, adapter("lm_head"), { ...base, tie_word_embeddings: false }).modules).toEqual(["output"]);
  const head: Storage = { kind: "memory", dtype: "float32", shape: [2, 4], data: new Float32Array(8) };
  expect(refused(adapter("model.layers.0.mlp.up_proj", 8, {}, { "score.weight": head })).message).toContain(
    'it holds "score.weight", which was trained in full',
  );
  expect(refused(adapter("model.layers.0.mlp.gate")).message).toContain('llama.cpp has no module for "model.layers.0.mlp.gate"');
  expect(refused(adapter("model.layers.0.mlp.up_proj", 8, { use_dora: true })).message).toContain("it uses use_dora = true");
  expect(refused(adapter("model.layers.0.mlp.up_proj"), { model_type: "gpt2" }).message).toContain(
    'its base model is of the family "gpt2"',
  );
  expect(refused(adapter("model.layers.0.self_attn.q_proj", 6), { ...base, num_attention_heads: 4 }).message).toContain(
    "has 6 outputs, which do not divide into the base model's 4 heads",
  );
});
