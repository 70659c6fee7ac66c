import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Storage } from "../graph/storage.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { readPeftAdapter, writePeftAdapter } from "./peft-adapter.ts";
import { loraScaling, type PeftConfig, parsePeftConfig, unsupportedPeftOptions } from "./peft-config.ts";
import { refusal } from "./refusal.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";

const fixtures = fileURLToPath(new URL("../../tests/fixtures/", import.meta.url));
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-peft-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

const json = (file: string) => JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
const zeros = (...shape: number[]): Storage => {
  return { kind: "memory", dtype: "float32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) };
};
const minimal = { peft_type: "LORA" as const, r: 4, lora_alpha: 8 };
const config = (more: object = {}) => parsePeftConfig<"LORA">({ ...minimal, ...more }, "adapter_config.json");

describe.each(["llama-tiny-lora", "llama-tiny-seqcls-lora"])("%s, saved by PEFT", (name) => {
  test("reads with names that are paths in the model", () => {
    const { config, tensors } = readPeftAdapter(join(fixtures, name));
    expect(config).toMatchObject({ r: 4, lora_alpha: 8, target_modules: ["q_proj", "v_proj"], bias: "none" });
    expect(tensors.get("model.layers.1.self_attn.v_proj.lora_A.weight")?.shape).toEqual([4, 48]);
    expect(tensors.get("model.layers.1.self_attn.v_proj.lora_B.weight")?.shape).toEqual([24, 4]);
    expect(tensors.get("score.weight")?.shape).toEqual(name.includes("seqcls") ? [2, 48] : undefined);
    expect(unsupportedPeftOptions(config)).toEqual([]);
    expect(loraScaling(config as PeftConfig<"LORA">, "model.layers.0.self_attn.q_proj")).toEqual({ rank: 4, alpha: 8, scale: 2 });
  });

  test("is written back with PEFT's names, the same values and every key of its configuration", () => {
    const adapter = readPeftAdapter(join(fixtures, name));
    writePeftAdapter(directory, adapter);
    expect(json(join(directory, "adapter_config.json"))).toEqual(json(join(fixtures, name, "adapter_config.json")));
    const original = openSafetensors(join(fixtures, name, "adapter_model.safetensors"));
    const written = openSafetensors(join(directory, "adapter_model.safetensors"));
    expect(written.metadata).toEqual({ format: "pt" });
    expect([...written.tensors.keys()].sort()).toEqual([...original.tensors.keys()].sort());
    for (const [key, storage] of original.tensors) expect(readStorage(written.tensors.get(key)!)).toEqual(readStorage(storage));
  });
});

describe("the configuration", () => {
  test("gets PEFT's defaults and keeps what it does not know", () => {
    expect(config({ from_the_future: { a: [1] } })).toEqual({
      ...minimal,
      lora_dropout: 0,
      bias: "none",
      fan_in_fan_out: false,
      use_rslora: false,
      inference_mode: true,
      from_the_future: { a: [1] },
    });
    for (const target of [["q_proj"], ".*attn.*", "all-linear", null])
      expect(config({ target_modules: target }).target_modules).toEqual(target);
  });

  test("lists every wrong key", () => {
    const wrong = { peft_type: "LORA", r: 0, lora_alhpa: 8, bias: "some", lora_dropout: 2, target_modules: 5 };
    const { code, message } = refusal(() => parsePeftConfig(wrong, "a/adapter_config.json"));
    expect(code).toBe("adapter-config");
    expect(message.split("\n").map((line) => line.split(": ")[0])).toEqual([
      "a/adapter_config.json",
      "  target_modules",
      "  r",
      "  lora_alpha",
      "  lora_dropout",
      "  bias",
      "Correct these keys or save the adapter again.",
    ]);
    expect(message).toContain("r: Too small: expected number to be >0");
  });

  test("of another method is refused by its name", () => {
    expect(refusal(() => parsePeftConfig({ peft_type: "LOHA" }, "a/adapter_config.json")).message).toBe(
      'a/adapter_config.json: peft_type is "LOHA"; of PEFT\'s adapters LORA, IA3, PROMPT_TUNING, P_TUNING, PREFIX_TUNING are read. Use one of these.',
    );
  });

  test("gives single modules their rank and alpha, by the end of the path", () => {
    const patterned = config({
      use_rslora: true,
      rank_pattern: { "layers.0.self_attn.q_proj": 16, v_proj: 9 },
      alpha_pattern: { "^model.*v_proj": 3 },
    });
    expect(loraScaling(patterned, "model.layers.0.self_attn.q_proj")).toEqual({ rank: 16, alpha: 8, scale: 2 });
    expect(loraScaling(patterned, "model.layers.10.self_attn.q_proj")).toEqual({ rank: 4, alpha: 8, scale: 4 });
    expect(loraScaling(patterned, "model.layers.1.self_attn.v_proj")).toEqual({ rank: 9, alpha: 3, scale: 1 });
    expect(loraScaling(patterned, "other_v_proj").rank).toBe(4);
    expect(refusal(() => loraScaling(config({ rank_pattern: { "(": 1 } }), "q")).message).toBe(
      'adapter_config.json: rank_pattern: "(" is not a regular expression. Correct it.',
    );
  });

  test("reports what is not computed, known or not", () => {
    const odd = config({
      use_dora: true,
      layer_replication: [[0, 1]],
      init_lora_weights: "pissa_niter_4",
      invented_in_2030: { on: true },
      lora_bias: false,
      trainable_token_indices: null,
      loftq_config: {},
      peft_version: "9",
    });
    expect(unsupportedPeftOptions(odd)).toEqual([
      { option: "layer_replication", value: [[0, 1]] },
      { option: "invented_in_2030", value: { on: true } },
      { option: "init_lora_weights", value: "pissa_niter_4" },
    ]);
    expect(unsupportedPeftOptions(config({ init_lora_weights: "gaussian" }))).toEqual([]);
  });
});

describe("refuses", () => {
  const read = () => refusal(() => readPeftAdapter(directory), directory);

  test("a directory that is no adapter, or half of one, or pickled", () => {
    expect(read()).toEqual({
      code: "checkpoint-missing",
      message: "…: is not an adapter, it has no adapter_config.json. Give the directory that PEFT or Espalier saved.",
    });
    writeFileSync(join(directory, "adapter_config.json"), JSON.stringify(minimal));
    expect(read().message).toBe("…: has adapter_config.json but no adapter_model.safetensors. Fetch or save the adapter again.");
    writeFileSync(join(directory, "adapter_model.bin"), "");
    expect(read().code).toBe("checkpoint-pickle");
    expect(read().message).toContain("only as adapter_model.bin, a Python pickle");
    expect(read().message).toContain("'adapter_model.safetensors'");
  });

  test("tensors without PEFT's prefix", () => {
    cpSync(join(fixtures, "llama-tiny-lora"), directory, { recursive: true });
    writeSafetensors(join(directory, "adapter_model.safetensors"), { "transformer.q.lora_A.weight": zeros(4, 2) });
    expect(read()).toEqual({
      code: "adapter-tensors",
      message:
        '…/adapter_model.safetensors: tensor "transformer.q.lora_A.weight" does not start with "base_model.model.", as PEFT\'s do. Save the adapter with PEFT again.',
    });
  });

  test("an A without its B, and a rank that is not the configuration's, also when writing", () => {
    const write = (tensors: Record<string, Storage>) =>
      refusal(() => writePeftAdapter(directory, { config: minimal, tensors: new Map(Object.entries(tensors)) }), directory);
    expect(write({ "q.lora_A.weight": zeros(4, 6) })).toEqual({
      code: "adapter-tensors",
      message: '…/adapter_model.safetensors: has "q.lora_A.weight" but not "q.lora_B.weight". Save the adapter again.',
    });
    expect(write({ "q.lora_A.weight": zeros(4, 6), "q.lora_B.weight": zeros(5, 3) })).toEqual({
      code: "adapter-tensors",
      message:
        '…/adapter_model.safetensors: tensor "q.lora_B.weight" has the shape [5, 3], but adapter_config.json gives that module the rank 4, so axis 1 must be 4. The two files are of different adapters, or r / rank_pattern is wrong.',
    });
    expect(readdirSync(directory)).toEqual([]);
  });
});
