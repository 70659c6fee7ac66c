import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { espalier, type Outcome, scratch, summary } from "./command.ts";
import { sentences, writeText, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const text = writeText(at("text.txt"));
const other = at("other.txt");
writeFileSync(other, sentences.slice(40, 80).join(" "));

let trained: Outcome;
let result: Record<string, unknown>;
beforeAll(async () => {
  const flags = ["--steps", "20", "--batch-size", "8", "--max-length", "32", "--learning-rate", "1e-2", "--threads", "1"];
  trained = await espalier("train", "--model", model, "--data", text, "--eval-data", other, "--run", at("run"), ...flags, "--json");
  result = summary(trained);
});

describe("train on a text", () => {
  test("is measured in bits per byte, and lowers them", () => {
    expect(result).toMatchObject({ task: "language-modeling", metric: "bitsPerByte", steps: 20, adapter: join(at("run"), "adapter") });
    for (const key of ["trainableParameters", "totalParameters", "tokensPerSecond", "peakMemoryMB"])
      expect(result[key], key).toBeGreaterThan(0);
    expect(result.finalMetric).toBeLessThan(result.baseMetric as number);
    expect(result.evalLossAfter).toBeLessThan(result.evalLossBefore as number);
    expect(trained.stdout).toMatch(/\d+ training and \d+ held-out tokens \(\d+ bytes of held-out text\), in windows of 32 tokens/);
  });

  test("says where the held-out figures rest on a few tokens", async () => {
    writeFileSync(at("short.txt"), "x\n");
    const flags = ["--data", at("short.txt"), "--run", at("short"), "--steps", "1", "--max-length", "32"];
    const { stdout, code } = await espalier("train", "--model", model, ...flags);
    expect(code).toBe(0);
    expect(stdout).toMatch(/The held-out figures rest on \d guessed tokens? and say next to nothing/);
    expect(trained.stdout).not.toContain("next to nothing");
  });

  test("without --eval-data holds out the end of the text", async () => {
    const { stdout, code } = await espalier(
      "train",
      "--model",
      model,
      "--data",
      text,
      "--held-out",
      "0.25",
      "--run",
      at("own"),
      "--steps",
      "1",
      "--max-length",
      "32",
    );
    expect(code).toBe(0);
    const [, bytes] = /\((\d+) bytes of held-out text\)/.exec(stdout)!;
    expect(Number(bytes)).toBe(Math.ceil(sentences.join(" ").length * 0.25));
  });
});

describe("the adapter", () => {
  test("evaluates to what training reported, and the base model to what it reported before", async () => {
    const adapted = summary(await espalier("eval", "--adapter", result.adapter as string, "--data", other, "--json"));
    expect(adapted.bitsPerByte).toBeCloseTo(result.finalMetric as number, 5);
    const base = summary(await espalier("eval", "--model", model, "--max-length", "32", "--data", other, "--json"));
    expect(base.bitsPerByte).toBeCloseTo(result.baseMetric as number, 5);
  });

  test.each(["bf16", "f16", "int8"])("on a base kept in %s measures nearly the same, but not just the same", async (dtype) => {
    const { bitsPerByte } = summary(
      await espalier("eval", "--adapter", result.adapter as string, "--data", other, "--base-dtype", dtype, "--json"),
    ) as { bitsPerByte: number };
    expect(bitsPerByte).not.toBe(result.finalMetric);
    expect(Math.abs(bitsPerByte - (result.finalMetric as number))).toBeLessThan(0.05);
    const generated = summary(
      await espalier("generate", "--adapter", result.adapter as string, "--prompt", "The", "--base-dtype", dtype, "--json"),
    );
    expect(generated.text).toBeTypeOf("string");
  });

  test("merges into a model that evaluates the same; in bfloat16 it nearly does", async () => {
    for (const [dtype, digits] of [
      ["f32", 5],
      ["bf16", 1],
    ] as const) {
      summary(await espalier("merge", "--adapter", result.adapter as string, "--output", at(dtype), "--dtype", dtype, "--json"));
      const merged = summary(await espalier("eval", "--model", at(dtype), "--data", other, "--json"));
      expect(merged.bitsPerByte).toBeCloseTo(result.finalMetric as number, digits);
    }
  });

  test("is never merged onto its base model", async () => {
    const { code, stderr } = await espalier("merge", "--adapter", result.adapter as string, "--output", model);
    expect({ code, stderr }).toEqual({ code: 1, stderr: `espalier: ${model} is the base model's own directory. Give another --output.\n` });
  });

  test("continues a prompt, the same for the same seed, and from a file", async () => {
    const ask = async (...flags: string[]) =>
      summary(
        await espalier("generate", "--adapter", result.adapter as string, "--max-new-tokens", "12", "--seed", "3", "--json", ...flags),
      );
    const first = await ask("--prompt", "the gardener");
    expect(first).toMatchObject({ prompt: "the gardener", text: expect.any(String) });
    expect(first.text).not.toBe("");
    writeFileSync(at("prompt.txt"), "the gardener");
    expect(await ask("--prompt", `@${at("prompt.txt")}`)).toMatchObject({ text: first.text });
    expect((await ask("--prompt", "the gardener", "--seed", "4")).text).not.toBe(first.text);
  });

  test("is told of a prompt that is longer than the context", async () => {
    const prompt = sentences.join(" ");
    const { stdout, code } = await espalier("generate", "--model", model, "--prompt", prompt, "--max-new-tokens", "3");
    expect(code).toBe(0);
    expect(stdout).toMatch(/The prompt was longer than the context: its first [\d,]+ tokens were dropped/);
  });

  test("is not a classifier", async () => {
    const { code, stderr } = await espalier("classify", "--adapter", result.adapter as string, text);
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/adapter is not a classifier/) });
  });
});
