import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { openSafetensors, readJsonObject } from "../../src/checkpoints/index.ts";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeLabelled, writeText, writeTinyModel } from "./tiny-model.ts";

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const small = ["--batch-size", "8", "--max-length", "32", "--learning-rate", "1e-2", "--steps", "10", "--threads", "1"];

interface File {
  file: string;
  dtype: string;
  bytes: number;
  largestDifference: number;
  largestValue: number;
  places: number;
  sameChoice: number;
}

describe("a language model", () => {
  const adapter = join(at("run"), "adapter");
  beforeAll(async () => {
    summary(await espalier("train", "--model", model, "--data", writeText(at("text.txt")), "--run", at("run"), ...small, "--json"));
  });

  test("in three types, and how near each comes", async () => {
    const outcome = await espalier("export", "--model", model, "--output", at("plain"), "--dtype", "f32,f16,int8", "--json");
    const { output, files, merged } = summary(outcome) as { output: string; files: File[]; merged: string[] };
    expect({ output, merged }).toEqual({ output: at("plain"), merged: [] });
    expect(files.map((f) => f.dtype)).toEqual(["f32", "f16", "int8"]);
    const [f32, f16, int8] = files as [File, File, File];
    expect([f32.places, f32.sameChoice]).toEqual([files[0]!.places, 1]);
    expect(f32.largestDifference / f32.largestValue).toBeLessThan(1e-5);
    expect(f16.largestDifference / f16.largestValue).toBeLessThan(1e-2);
    expect(int8.largestDifference / int8.largestValue).toBeLessThan(0.1);
    expect(f16.bytes).toBeLessThan(f32.bytes);
    expect(outcome.stdout).toMatch(
      /model_quantized\.onnx: int8, \d+ kB\. Its outputs, of up to [\d.]+, differ from the model's by [\d.e-]+ at most/,
    );
    expect(readdirSync(at("plain")).sort()).toEqual([
      "config.json",
      "generation_config.json",
      "onnx",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
  });

  test("with an adapter in its weights, or beside it", async () => {
    const flags = ["export", "--adapter", adapter, "--json"];
    const inWeights = summary(await espalier(...flags, "--output", at("merged")));
    expect(inWeights.merged).toContain("model.layers.1.self_attn.q_proj");
    expect((inWeights.files as File[])[0]!.largestDifference).toBeLessThan(1e-4);

    const beside = summary(await espalier(...flags, "--adapter-inputs", "--output", at("inputs")));
    expect(beside).toMatchObject({ merged: [], adapter: join(at("inputs"), "onnx", "run.safetensors") });
    expect((beside.files as File[])[0]!.largestDifference).toBeLessThan(1e-4);
    expect([...openSafetensors(beside.adapter as string).tensors.keys()]).toContain("model.layers.0.self_attn.q_proj.lora_A.weight");
  });

  test("is refused where it makes no sense", async () => {
    expect(refusal(await espalier("export", "--output", at("x"), "--adapter-inputs"))).toContain("--adapter-inputs needs an --adapter");
    expect(refusal(await espalier("export", "--output", at("x"), "--dtype", "f32,q4"), 2)).toContain("Allowed choices are f32, f16, int8.");
    expect(refusal(await espalier("export", "--model", model, "--output", model))).toContain(
      "is the directory that the model was loaded from",
    );
    expect(refusal(await espalier("export", "--model", fixture("wav2vec2-tiny"), "--output", at("x")))).toContain("cannot be exported");
    expect(existsSync(at("x"))).toBe(false);
  });
});

test("a classifier keeps its labels, adapted or merged", async () => {
  const data = writeLabelled(at("data.jsonl"));
  summary(await espalier("train", "--model", model, "--data", data, "--run", at("classes"), ...small, "--json"));
  const adapter = join(at("classes"), "adapter");
  summary(await espalier("merge", "--adapter", adapter, "--output", at("whole"), "--json"));
  for (const [name, flags] of Object.entries({ a: ["--adapter", adapter], b: ["--model", at("whole")] })) {
    const { files } = summary(await espalier("export", ...flags, "--output", at(name), "--json")) as { files: File[] };
    expect(files[0]).toMatchObject({ places: 1, sameChoice: 1 });
    expect(files[0]!.largestDifference).toBeLessThan(1e-4);
    expect(readJsonObject(join(at(name), "config.json"))).toMatchObject({
      architectures: ["LlamaForSequenceClassification"],
      id2label: { 0: "other", 1: "tree" },
    });
  }
});

test.each([
  ["encoder-bert", "f32"],
  ["encoder-roberta-seqcls", "f16"],
  ["encoder-distilbert-tokcls", "int8"],
  ["encoder-bert-bare", "f32"],
])("%s: an encoder with the head that its configuration names", async (name, dtype) => {
  const outcome = await espalier("export", "--model", fixture(name), "--output", at(name), "--dtype", dtype, "--json");
  const { files } = summary(outcome) as { files: File[] };
  expect(files[0]!.largestDifference / files[0]!.largestValue).toBeLessThan({ f32: 1e-5, f16: 0.01, int8: 0.1 }[dtype]!);
  expect(outcome.stdout).toContain("has no tokenizer.json");
});

test.each(["vit-tiny", "vit-tiny-bare", "dinov2-tiny", "deit-tiny"])("%s: a model of images", async (name) => {
  const outcome = await espalier("export", "--model", fixture(name), "--output", at(name), "--json");
  const { files } = summary(outcome) as { files: File[] };
  expect(files[0]!.largestDifference / files[0]!.largestValue).toBeLessThan(1e-5);
  expect(outcome.stdout).not.toContain("tokenizer");
});

test("--help describes every option", async () => {
  const { code, stdout } = await espalier("export", "--help");
  expect(code).toBe(0);
  for (const option of ["output", "model", "adapter", "adapter-inputs", "dtype", "json"])
    expect(stdout).toMatch(new RegExp(`--${option}[ <].*\\w`));
});
