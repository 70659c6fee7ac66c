/** Preferences: batches, the reference that is remembered, and a model that learns them. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { sentences, writeTinyModel } from "../../../tests/cli/tiny-model.ts";
import { readPreferences } from "../../data/preferences.ts";
import { chatTemplateFromDirectory } from "../../inputs/text/chat-template-directory.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { lora } from "../../methods/index.ts";
import { loadCausalLM } from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { applyWeights } from "../method.ts";
import { adamW } from "../optimizers/index.ts";
import { train } from "../trainer.ts";
import { preferenceTask } from "./preference.ts";

const device = cpu({ threads: 1 });
const directory = mkdtempSync(join(tmpdir(), "espalier-preference-"));
writeTinyModel(directory, { context: 512 });
afterAll(async () => {
  await device.dispose();
  rmSync(directory, { recursive: true });
});
const tokenizer = await tokenizerFromDirectory(directory);
const file = (name: string, ...records: unknown[]): string => {
  const path = join(directory, name);
  writeFileSync(path, records.map((record) => (typeof record === "string" ? record : JSON.stringify(record))).join("\n"));
  return path;
};
const trees = sentences.filter((text) => text.includes("tree"));
const others = sentences.filter((text) => !text.includes("tree"));
const pairs = readPreferences(
  file(
    "pairs.jsonl",
    ...trees.slice(0, 40).map((chosen, i) => ({ prompt: "what do you see? ", chosen, rejected: others[(i * 3) % others.length] })),
  ),
);
const common = { batchSize: 8, seed: 1, maxLength: 48 };

describe("training", () => {
  const adapted = () => {
    const model = loadCausalLM(directory);
    const methods = [lora({ rank: 4, targets: "all-linear" as never })];
    applyWeights(model, methods);
    return { model, methods };
  };

  test("answers about trees are preferred in held-out pairs after it, and were not before", async () => {
    const { model, methods } = adapted();
    const task = preferenceTask(model, tokenizer, undefined, device, { ...common, train: pairs.slice(0, 28), heldOut: pairs.slice(28) });
    const before = await task.evaluate();
    expect(before.rewardAccuracy).toBe(0.5);
    expect(before.loss).toBeCloseTo(Math.LN2, 5);
    const result = await train({
      model,
      methods,
      objective: task.objective,
      data: task.train,
      device,
      optimizer: adamW({ learningRate: 5e-3 }),
      steps: 24,
    });
    const after = await task.evaluate();
    expect(result.lastLoss).toBeLessThan(0.5);
    expect(after.rewardAccuracy).toBeGreaterThanOrEqual(0.9);
    expect(after.rewardMargin).toBeGreaterThan(0);
    expect(after.loss).toBeLessThan(before.loss!);
    await task.dispose();
  });

  test("the remembered reference is that of the same graph", async () => {
    const losses = async (remembered: boolean) => {
      const { model, methods } = adapted();
      const task = preferenceTask(model, tokenizer, undefined, device, { ...common, train: pairs, heldOut: pairs.slice(0, 8) });
      const found: number[] = [];
      const withoutReference = async (step: number) => {
        const batch = await task.train.batch(step);
        return { ...batch, feeds: { ids: batch.feeds.ids!, targets: batch.feeds.targets! } };
      };
      await train({
        model,
        methods,
        objective: task.objective,
        data: remembered ? task.train : { batchesPerEpoch: task.train.batchesPerEpoch, batch: withoutReference },
        device,
        optimizer: adamW({ learningRate: 5e-3 }),
        steps: 8,
        onStep: ({ loss }) => void found.push(loss),
      });
      await task.dispose();
      return found;
    };
    const [fed, traced] = [await losses(true), await losses(false)];
    for (const [i, loss] of fed.entries()) expect(loss).toBeCloseTo(traced[i]!, 4);
  });

  test("a model that is itself trained has no reference", async () => {
    const model = loadCausalLM(directory);
    const task = preferenceTask(model, tokenizer, undefined, device, { ...common, train: pairs, heldOut: pairs });
    await expect(task.evaluate()).rejects.toThrow(/of the model itself is trained.*Train with a method such as lora/s);
    await task.dispose();
  });
});

describe("data", () => {
  const prompt = [{ role: "user", content: "what do you see?" }];
  const says = (content: string) => ({ role: "assistant", content });

  test("messages: the last thing that the assistant says is learnt, and nothing before it", async () => {
    const earlier = [...prompt, says("a wall"), ...prompt];
    const [apart] = readPreferences(file("apart.jsonl", { prompt: earlier, chosen: [says("a tree")], rejected: [says("a fence")] }));
    const [whole] = readPreferences(file("whole.jsonl", { chosen: [...earlier, says("a tree")], rejected: [...earlier, says("a fence")] }));
    expect({ ...apart, file: "" }).toEqual({ ...whole, file: "" });
    const template = chatTemplateFromDirectory(directory, { format: "chatml" });
    const model = loadCausalLM(directory);
    applyWeights(model, [lora()]);
    const options = { ...common, batchSize: 1, maxLength: 300 };
    const { train } = preferenceTask(model, tokenizer, template, device, { ...options, train: [apart!], heldOut: [] });
    const { targets } = (await train.batch(0)).feeds;
    const said = Array.from(targets!.data as BigInt64Array, Number);
    const texts = [said.slice(0, said.length / 2), said.slice(said.length / 2)].map((ids) =>
      tokenizer.decode(ids.filter((id) => id !== -100)),
    );
    expect(texts.map((text) => text.trim())).toEqual(["a tree<|im_end|>", "a fence<|im_end|>"]);
  });

  test.each([
    [{ prompt: "a" }, /has no "chosen"/],
    [{ prompt: "a", chosen: "b", rejected: [says("c")] }, /must all be texts, or all lists of messages/],
    [{ prompt: "a", chosen: "b", rejected: "b" }, /the two answers are the same/],
    [{ prompt: "a", chosen: " ", rejected: "b" }, /"chosen" is empty/],
    [{ prompt, chosen: [says("b")], rejected: prompt }, /"rejected" must end with what the assistant says/],
    [{ prompt, chosen: [{ role: "nobody", content: "b" }], rejected: [says("c")] }, /"chosen", message 1/],
    [{ chosen: [...prompt, says("b")], rejected: [says("c")] }, /differ before their last message/],
    [{ chosen: [says("b")], rejected: [says("c")] }, /nothing stands before the answers/],
    ["[1]", /holds a list/],
  ])("%j is refused", (record, message) => {
    expect(() => readPreferences(file("bad.jsonl", { prompt: "a", chosen: "b", rejected: "c" }, record))).toThrow(message);
    expect(() => readPreferences(file("bad.jsonl", { prompt: "a", chosen: "b", rejected: "c" }, record))).toThrow(/bad.jsonl line 2/);
  });

  test("pairs that are too long are cut or left out, and counted", () => {
    const model = loadCausalLM(directory).freeze();
    const long = { prompt: sentences.slice(0, 30).join(" "), chosen: "a tree", rejected: "a wall" };
    const cut = { prompt: "see ", chosen: sentences.slice(0, 20).join(" "), rejected: "a wall" };
    const given = readPreferences(file("long.jsonl", long, cut));
    const task = preferenceTask(model, tokenizer, undefined, device, { ...common, train: [], heldOut: given });
    expect(task.notes[0]).toBe("0 training and 1 held-out pairs of answers");
    expect(task.notes.join()).toMatch(/of 1 of 2 held-out pairs an answer is longer than 48 tokens.*1 of 2 held-out pairs were left out/);
    expect(() => preferenceTask(model, tokenizer, undefined, device, { ...common, train: [], heldOut: given.slice(0, 1) })).toThrow(
      /In none of the 1 held-out pairs do both answers begin/,
    );
    const told = readPreferences(file("told.jsonl", { prompt, chosen: [says("a")], rejected: [says("b")] }));
    expect(() => preferenceTask(model, tokenizer, undefined, device, { ...common, train: [], heldOut: told })).toThrow(
      /has no chat template/,
    );
  });
});
