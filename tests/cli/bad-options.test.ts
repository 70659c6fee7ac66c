import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { espalier, refusal, scratch, startEspalier } from "./command.ts";
import { writeLabelled, writeText, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const model = writeTinyModel(join(directory, "model"));
const data = writeLabelled(join(directory, "data.jsonl"));
const run = join(directory, "run");
const train = ["train", "--model", model, "--data", data, "--run", run];

describe("wrong usage ends with code 2 and says what is wanted", () => {
  test.each([
    [[...train, "--rnak", "4"], "error: unknown option '--rnak'\n(Did you mean --rank?)"],
    [[...train, "--rank", "0"], "error: option '--rank <n>' argument '0' is invalid. It must be a whole number of at least 1."],
    [[...train, "--rank", "2.5"], "It must be a whole number of at least 1."],
    [[...train, "--dropout", "1"], "It must be a number between 0 and 0.99."],
    [[...train, "--learning-rate", "fast"], "It must be a number of at least"],
    [[...train, "--schedule", "step"], "Allowed choices are constant, linear, cosine, cosine-restarts"],
    [[...train, "--resume", "--replace"], "option '--replace' cannot be used with option '--resume [run]'"],
    [["trian"], "error: unknown command 'trian'\n(Did you mean train?)"],
    [["merge", "--adapter", "a", "--output", "b", "--dtype", "f8"], "Allowed choices are f32, bf16."],
    [["classify", data], "error: give --adapter, or the --model of a whole classifier"],
    [["classify", "--adapter", "a"], "error: missing required argument 'files'"],
  ] as [string[], string][])("%j", async (args, expected) => {
    const outcome = await espalier(...args);
    expect(refusal(outcome, 2)).toContain(expected);
    expect(outcome.stderr).toContain("(--help lists commands and options)");
    expect(outcome.stdout).toBe("");
    expect(existsSync(run)).toBe(false);
  });
});

describe("options that do not fit the model end with code 1", () => {
  test("a target that matches nothing: the nearest names are suggested", async () => {
    const message = refusal(await espalier(...train, "--max-length", "48", "--targets", "q_porj"));
    expect(message).toContain('The target "q_porj" matches no Linear or Embedding of the model. Nearest: q_proj');
    expect(message).toContain("The model's Linears and Embeddings are called embed_tokens, q_proj, k_proj, v_proj, o_proj");
    expect(existsSync(run)).toBe(false);
  });

  test("sequences longer than the context", async () => {
    const text = writeText(join(directory, "text.txt"));
    for (const args of [
      train,
      ["train", "--model", model, "--data", text],
      ["eval", "--model", model, "--data", text],
      ["inspect", "--model", model],
    ])
      expect(refusal(await espalier(...args, "--max-length", "65"))).toBe(
        `espalier: --max-length 65 is longer than the context of ${model}, 64 tokens.\n`,
      );
  });

  test("a template without a place for the text, or that leaves it no room", async () => {
    expect(refusal(await espalier(...train, "--max-length", "48", "--template", "Label:"))).toContain(
      'The template "Label:" must contain {text} once.',
    );
    expect(refusal(await espalier(...train, "--max-length", "3"))).toContain("leaves no room for the text: the template alone takes");
  });

  test("a positive label that does not occur", async () => {
    expect(refusal(await espalier(...train, "--max-length", "48", "--positive", "moss"))).toContain(
      'The positive label "moss" does not occur',
    );
  });
});

test("as a process: messages on stderr, nothing on stdout, the same exit codes", async () => {
  const missing = join(directory, "missing.jsonl");
  const [problem, usage] = await Promise.all([
    startEspalier(["train", "--model", model, "--data", missing]).done,
    startEspalier(["train", "--rank", "0"]).done,
  ]);
  expect(problem).toEqual({ code: 1, signal: null, stdout: "", stderr: `espalier: ${missing}: there is no such file. Check the path.\n` });
  expect(usage).toMatchObject({ code: 2, stdout: "" });
  expect(refusal(usage, 2)).toContain("It must be a whole number of at least 1.");
});
