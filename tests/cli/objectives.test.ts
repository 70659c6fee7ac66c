/** Preferences, vectors of sentences and teachers, by the command: trained, and measured again by eval to what train reported. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeBert } from "./task-models.ts";
import { sentences, writeLabelled, writeText, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const lines = (name: string, records: readonly unknown[]) => {
  writeFileSync(at(name), records.map((record) => JSON.stringify(record)).join("\n"));
  return at(name);
};
const decoder = writeTinyModel(at("decoder"));
const things = ["gardener", "pear", "wall", "apple", "frame", "vine"];
const places = ["south", "wires", "fence", "trellis", "gate"];
const latin = ["hortulanus", "pirus", "murus", "malus", "arca", "vitis", "meridies", "fila", "saepes", "pergula", "porta"];
const bert = writeBert(at("bert"), ["leans", "on", ...things, ...places, ...latin]);

const common = ["--threads", "1", "--rank", "4", "--json"];
const train = async (...args: string[]) => summary(await espalier("train", ...common, ...args));

/** What eval says of the adapter is what train said of it. */
async function expectSame(result: Record<string, unknown>, data: string): Promise<void> {
  const measured = summary(await espalier("eval", "--adapter", String(result.adapter), "--data", data, "--batch-size", "8", "--json"));
  expect(measured).toMatchObject({ task: result.task, metric: result.metric });
  for (const [name, value] of Object.entries(result.after as Record<string, number>)) expect(measured[name], name).toBeCloseTo(value, 4);
}

describe("preference", () => {
  const trees = sentences.filter((text) => text.includes("tree"));
  const others = sentences.filter((text) => !text.includes("tree"));
  const data = lines(
    "preferences.jsonl",
    trees.slice(0, 40).map((chosen, i) => ({ prompt: `what of ${i}? `, chosen, rejected: others[(i * 3) % others.length] })),
  );
  const args = ["--model", decoder, "--data", data, "--max-length", "48", "--batch-size", "8"];

  test("is recognised, learnt and measured again", async () => {
    const held = lines(
      "held.jsonl",
      trees.slice(40).map((chosen, i) => ({ prompt: "and now? ", chosen, rejected: others[i] })),
    );
    const result = await train(
      ...args,
      "--eval-data",
      held,
      "--run",
      at("dpo"),
      "--epochs",
      "6",
      "--learning-rate",
      "5e-3",
      "--beta",
      "0.2",
    );
    expect(result).toMatchObject({ task: "preference", metric: "rewardAccuracy", baseMetric: 0.5 });
    expect(result.finalMetric).toBeGreaterThanOrEqual(0.9);
    await expectSame(result, held);
  });

  test("a whole model has no reference", async () => {
    const outcome = await espalier("train", "--threads", "1", ...args, "--run", at("whole"), "--method", "none");
    expect(refusal(outcome)).toMatch(/the model without its adapters, but .* is trained. Train with a method such as lora/);
  });
});

describe("sentence-similarity", () => {
  const pairs = things.flatMap((thing, i) =>
    places.map((place, k) => ({ anchor: `${thing} leans on ${place}`, positive: `${latin[i]} ${latin[6 + k]}` })),
  );
  const data = lines("pairs.jsonl", pairs);

  test("is recognised, learnt in chunks and measured again", async () => {
    const held = lines(
      "held-pairs.jsonl",
      pairs.filter((_, i) => i % 4 === 0),
    );
    const result = await train(
      ...["--model", bert, "--data", data, "--eval-data", held, "--run", at("vectors"), "--max-length", "16", "--batch-size", "16"],
      ...["--epochs", "30", "--learning-rate", "1e-2", "--chunk", "8", "--symmetric"],
    );
    expect(result).toMatchObject({ task: "sentence-similarity", metric: "accuracy" });
    expect(result.finalMetric).toBeGreaterThan(Math.max(0.7, result.baseMetric as number));
    await expectSame(result, held);
  });
});

describe("a teacher", () => {
  test("of a language model: the student comes nearer to the text", async () => {
    const data = writeText(at("text.txt"));
    const taught = await train(
      ...["--model", decoder, "--data", data, "--run", at("taught"), "--max-length", "32", "--steps", "6"],
      ...["--teacher", decoder, "--teacher-share", "0.3", "--temperature", "1.5"],
    );
    expect(taught).toMatchObject({ task: "language-modeling" });
    expect(taught.finalMetric).toBeLessThan(taught.baseMetric as number);
  });

  test("of a classifier must have a head, and be named", async () => {
    const data = writeLabelled(at("labelled.jsonl"));
    const args = ["train", "--threads", "1", "--model", decoder, "--data", data, "--max-length", "32", "--run", at("class")];
    expect(refusal(await espalier(...args, "--teacher", decoder))).toMatch(/teacher has no classification head/);
    expect(refusal(await espalier(...args, "--temperature", "3"))).toMatch(/--temperature speaks of a teacher, and there is none/);
  });

  test("with another tokenizer is refused", async () => {
    const other = writeTinyModel(at("other"));
    const file = join(other, "tokenizer.json");
    const tokenizer = JSON.parse(readFileSync(file, "utf8"));
    tokenizer.model.merges = tokenizer.model.merges.slice(0, 3);
    writeFileSync(file, JSON.stringify(tokenizer));
    const data = writeText(at("text2.txt"));
    const outcome = await espalier(
      "train",
      "--threads",
      "1",
      "--model",
      decoder,
      "--data",
      data,
      "--max-length",
      "32",
      "--run",
      at("o"),
      "--teacher",
      other,
    );
    expect(refusal(outcome)).toMatch(/has another tokenizer than the model/);
  });
});
