import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { GgufFile } from "../../src/checkpoints/index.ts";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeText } from "./tiny-model.ts";

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
const directory = scratch();
const at = (name: string) => join(directory, name);
const text = writeText(at("text.txt"));
const model = at("model.Q8_0.gguf");
copyFileSync(fixture("gguf-tiny/llama-quantized.gguf"), model);
const adapter = join(at("run"), "adapter");

let trained: Record<string, unknown>;
beforeAll(async () => {
  const flags = ["--steps", "20", "--batch-size", "8", "--max-length", "32", "--learning-rate", "1e-2", "--threads", "1"];
  trained = summary(await espalier("train", "--model", model, "--data", text, "--run", at("run"), ...flags, "--json"));
});

describe("a GGUF file as the base model", () => {
  test("is adapted", () => {
    expect(trained.finalMetric).toBeLessThan(0.9 * (trained.baseMetric as number));
  });

  test("with the adapter continues a text; so does the merged model, in the same words", async () => {
    const flags = ["--prompt", "the old wall", "--temperature", "0", "--max-new-tokens", "12", "--json"];
    const adapted = summary(await espalier("generate", "--adapter", adapter, ...flags));
    summary(await espalier("merge", "--adapter", adapter, "--output", at("merged"), "--json"));
    const merged = summary(await espalier("generate", "--model", at("merged"), ...flags));
    expect((adapted.ids as number[]).length).toBeGreaterThan(0);
    expect(merged.ids).toEqual(adapted.ids);
  });

  test("is recognised when a run is resumed, and another file is not", async () => {
    const resume = ["--data", text, "--run", at("run"), "--resume", "--steps", "20", "--batch-size", "8", "--max-length", "32"];
    const other = at("other.gguf");
    copyFileSync(fixture("gguf-tiny/llama-16bit.gguf"), other);
    const flags = ["--learning-rate", "1e-2"];
    expect(refusal(await espalier("train", "--model", other, ...resume, ...flags))).toContain("cannot be resumed with other base model");
    expect((await espalier("train", "--model", model, ...resume, ...flags)).code).toBe(0);
  });

  test("is found alone in its directory", async () => {
    mkdirSync(at("alone"));
    copyFileSync(model, join(at("alone"), "model.gguf"));
    const { ids } = summary(await espalier("generate", "--model", at("alone"), "--prompt", "the", "--max-new-tokens", "2", "--json"));
    expect(ids).toHaveLength(2);
  });
});

describe("convert", () => {
  test("writes the adapter for llama.cpp", async () => {
    const output = at("adapter.gguf");
    const { modules } = summary(await espalier("convert", "--adapter", adapter, "--output", output, "--json"));
    expect(modules).toHaveLength(14);
    const gguf = GgufFile.open(output);
    expect(gguf.string("general.type")).toBe("adapter");
    expect(gguf.tensors.get("blk.1.ffn_down.weight.lora_a")!.shape).toEqual([8, 64]);
    expect(gguf.tensors.get("blk.1.ffn_down.weight.lora_b")!.shape).toEqual([32, 8]);
  });

  test("refuses a name that llama.cpp would not take, and an adapter of a classifier", async () => {
    expect(refusal(await espalier("convert", "--adapter", adapter, "--output", at("adapter.bin")))).toContain("ends in .gguf");
    const flags = ["--adapter", fixture("llama-tiny-seqcls-lora"), "--model", fixture("llama-tiny"), "--output", at("classifier.gguf")];
    expect(refusal(await espalier("convert", ...flags))).toContain('it holds "score.weight", which was trained in full');
    expect(existsSync(at("classifier.gguf"))).toBe(false);
  });
});
