import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { readPeftAdapter } from "../../src/checkpoints/index.ts";
import { espalier, type Outcome, refusal, scratch, summary } from "./command.ts";
import { sentences, writeLabelled, writeTinyModel } from "./tiny-model.ts";

const at = (name: string) => join(directory, name);
const directory = scratch();
const model = writeTinyModel(at("model"));
const data = writeLabelled(at("data.jsonl"));
const heldOut = writeLabelled(at("held-out.jsonl"), 25);
const small = ["--batch-size", "8", "--max-length", "48", "--threads", "1"];

let trained: Outcome;
let result: Record<string, unknown>;
beforeAll(async () => {
  trained = await espalier(
    "train",
    "--model",
    model,
    "--data",
    data,
    "--eval-data",
    heldOut,
    "--run",
    at("run"),
    "--steps",
    "25",
    "--learning-rate",
    "5e-3",
    ...small,
    "--json",
  );
  result = summary(trained);
});

describe("train", () => {
  test("ends with one JSON object that says what was reached and what it cost", () => {
    expect(result).toMatchObject({ task: "classification", metric: "accuracy", steps: 25, adapter: join(at("run"), "adapter") });
    for (const key of ["baseMetric", "finalMetric", "evalLossBefore", "evalLossAfter", "tokensPerSecond", "peakMemoryMB"])
      expect(result[key], key).toEqual(expect.any(Number));
    // r·(in + out) for seven Linears of two layers, and the head.
    expect(result.trainableParameters).toBe(2 * 8 * (64 + 48 + 48 + 64 + 3 * 80) + 2 * 32);
    expect(result.totalParameters).toBe(
      (result.trainableParameters as number) + 300 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 64) + 32,
    );
    expect(result.evalLossAfter).toBeLessThan(result.evalLossBefore as number);
    expect(result.finalMetric).toBeGreaterThan(0.9);
  });

  test("states the split, the majority class and the share that is trained", () => {
    expect(trained.stdout).toMatch(/60 training and 25 held-out texts; labels other \d+, tree \d+ in training/);
    expect(trained.stdout).toMatch(/Held-out majority class "other": accuracy 0\.\d+/);
    expect(trained.stdout).toMatch(/[\d,]+ of [\d,]+ parameters are trained \(\d+\.\d\d %\)/);
  });

  test("leaves a run directory: configuration, hashes, a line per step, the last checkpoint and an adapter", () => {
    const run = JSON.parse(readFileSync(join(at("run"), "run.json"), "utf8"));
    expect(run).toMatchObject({
      environment: { espalier: expect.stringMatching(/^\d/), onnxruntime: expect.stringMatching(/^\d/), cores: expect.any(Number) },
      steps: 25,
      seed: 0,
      options: { rank: 8, data, learningRate: 5e-3 },
    });
    for (const name of ["data", "evalData", "model"]) expect(run.sha256[name]).toMatch(/^[0-9a-f]{64}$/);
    const metrics = readFileSync(join(at("run"), "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(metrics.filter((m) => "loss" in m).map((m) => m.step)).toEqual(Array.from({ length: 25 }, (_, i) => i + 1));
    expect(metrics.filter((m) => "eval.accuracy" in m).map((m) => m.step)).toEqual([0, 25]);
    expect(existsSync(join(at("run"), "checkpoints/step-25/state.safetensors"))).toBe(true);
    const { config, tensors } = readPeftAdapter(join(at("run"), "adapter"));
    expect(config).toMatchObject({ peft_type: "LORA", task_type: "SEQ_CLS", r: 8, base_model_name_or_path: model });
    expect(tensors.has("score.weight")).toBe(true);
    expect(JSON.parse(readFileSync(join(at("run"), "adapter/espalier.json"), "utf8"))).toMatchObject({ labels: ["other", "tree"] });
  });
});

describe("the adapter", () => {
  test("evaluates to what training reported", async () => {
    const measured = summary(
      await espalier("eval", "--adapter", result.adapter as string, "--data", heldOut, "--batch-size", "8", "--json"),
    );
    expect(measured).toMatchObject({ task: "classification", examples: 25, accuracy: result.finalMetric });
    expect(measured.loss).toBeCloseTo(result.evalLossAfter as number, 5);
  });

  test("merges into a model that evaluates the same and is used without an adapter", async () => {
    const output = at("merged");
    expect(summary(await espalier("merge", "--adapter", result.adapter as string, "--output", output, "--json"))).toMatchObject({
      output,
      merged: expect.arrayContaining(["model.layers.1.mlp.down_proj"]),
      dtype: "f32",
    });
    const measured = summary(await espalier("eval", "--model", output, "--data", heldOut, "--json"));
    expect(measured).toMatchObject({ accuracy: result.finalMetric });
    expect(measured.loss).toBeCloseTo(result.evalLossAfter as number, 4);
  });

  test("classifies files, and says how many were too long to be read whole", async () => {
    const tree = sentences.find((s) => s.includes("tree"))!;
    writeFileSync(at("short.txt"), tree);
    writeFileSync(at("long.txt"), tree.repeat(40));
    const outcome = await espalier("classify", "--adapter", result.adapter as string, at("short.txt"), at("long.txt"), "--json");
    const { results } = summary(outcome) as { results: { file: string; label: string; probability: number }[] };
    expect(results.map(({ file, label }) => ({ file, label }))).toEqual([
      { file: at("short.txt"), label: "tree" },
      { file: at("long.txt"), label: "tree" },
    ]);
    for (const { probability } of results) expect(probability).toBeGreaterThan(0.5);
    expect(outcome.stdout).toMatch(/1 of 2 texts are longer than \d+ tokens: only their beginnings were read/);
  });

  test("of a classifier cannot continue texts", async () => {
    const { code, stderr } = await espalier("generate", "--adapter", result.adapter as string, "--prompt", "the");
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/is a classifier; it writes no text\. Use espalier classify/),
    });
  });
});

test("texts beyond --max-length are cut, and the output says how many", async () => {
  const long = at("long.jsonl");
  const line = (i: number) => ({ text: sentences[i]!.repeat(i % 10 === 0 ? 9 : 1), label: i % 2 ? "odd" : "even" });
  writeFileSync(long, Array.from({ length: 40 }, (_, i) => JSON.stringify(line(i))).join("\n"));
  const { stdout, code } = await espalier(
    "train",
    "--model",
    model,
    "--data",
    long,
    "--eval-data",
    heldOutOf(long),
    "--run",
    at("cut"),
    "--steps",
    "1",
    ...small,
  );
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /4 of 40 training texts are longer than \d+ tokens \(the longest has \d+\): their ends were cut off; --max-length changes that/,
  );
});

function heldOutOf(file: string): string {
  const held = `${file.slice(0, -".jsonl".length)}-held.jsonl`;
  writeFileSync(held, readFileSync(file, "utf8").split("\n").slice(0, 8).join("\n"));
  return held;
}

test("--method none trains the whole model and saves it whole", async () => {
  const full = summary(
    await espalier(
      "train",
      "--model",
      model,
      "--data",
      data,
      "--eval-data",
      heldOut,
      "--run",
      at("full"),
      "--method",
      "none",
      "--steps",
      "10",
      ...small,
      "--json",
    ),
  );
  expect(full).toMatchObject({ adapter: join(at("full"), "trained-model") });
  expect(full.trainableParameters).toBe(full.totalParameters);
  const measured = summary(await espalier("eval", "--model", full.adapter as string, "--data", heldOut, "--json"));
  expect(measured.accuracy).toBe(full.finalMetric);
  expect(measured.loss).toBeCloseTo(full.evalLossAfter as number, 5);
  const args = ["train", "--model", full.adapter as string, "--data", data, "--run", at("full"), "--replace", "--steps", "1", ...small];
  expect(refusal(await espalier(...args))).toContain("is part of the run that --replace would remove");
});
