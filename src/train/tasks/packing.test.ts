/** Packed rows in the tasks of the command: what they say of themselves, and that a model learns from them what it learns from rows of their own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { sentences, writeTinyModel } from "../../../tests/cli/tiny-model.ts";
import { chatTemplateFromDirectory } from "../../inputs/text/chat-template-directory.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { loadCausalLM } from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { Evaluator } from "../evaluate.ts";
import { chatTask } from "./chat.ts";
import { languageModelingTask } from "./language-modeling.ts";
import type { Task } from "./task.ts";

const device = cpu({ threads: 1 });
const directory = mkdtempSync(join(tmpdir(), "espalier-packing-"));
writeTinyModel(directory, { context: 256 });
afterAll(async () => {
  await device.dispose();
  rmSync(directory, { recursive: true });
});
const model = loadCausalLM(directory).freeze();
const tokenizer = await tokenizerFromDirectory(directory);
const common = { batchSize: 4, seed: 5 };

/** The loss of an epoch of training batches, and how many of them there are. */
async function epoch({ objective, train }: Task): Promise<{ loss: number; weight: number; batches: number }> {
  const evaluator = new Evaluator(device, objective);
  const { loss, weight } = await evaluator.run(train);
  await evaluator.dispose();
  return { loss, weight, batches: train.batchesPerEpoch };
}

test("conversations: the same loss over the same targets as in rows of their own, in fewer batches", async () => {
  const conversations = sentences.slice(0, 40).map((text, i) => {
    const messages = [
      { role: "user" as const, content: text.slice(0, 9) },
      { role: "assistant" as const, content: sentences[i + 60]!.slice(0, 3 + (i % 9)) },
    ];
    return { messages, text, file: "chats.jsonl", line: i + 1 };
  });
  const template = chatTemplateFromDirectory(directory, { format: "chatml" });
  const task = (packing: boolean) =>
    chatTask(model, tokenizer, template, device, { ...common, train: conversations, heldOut: conversations, maxLength: 256, packing });
  const [alone, packed] = [await epoch(task(false)), await epoch(task(true))];
  expect(packed.weight).toBe(alone.weight);
  expect(Math.abs(packed.loss - alone.loss)).toBeLessThan(1e-5);
  expect(packed.batches).toBeLessThan(alone.batches);
  expect(task(true).notes.join("\n")).toMatch(
    /40 training examples share \d+ rows of 256 tokens; [\d.]+ % of an epoch's places are padding/,
  );
});

test("texts: every token but the first of each is learnt, each text from its own beginning; long ones in parts", async () => {
  const examples = sentences.map((text, i) => ({ text: i === 3 ? text.repeat(9) : text, file: "texts.txt", line: i + 1 }));
  const task = languageModelingTask(model, tokenizer, device, {
    ...common,
    train: examples,
    heldOut: examples,
    sequenceLength: 32,
    packing: true,
  });
  const lengths = examples.map(({ text }) => tokenizer.encode(text, { addSpecialTokens: false }).length);
  const { weight, loss } = await epoch(task);
  expect(weight).toBe(lengths.reduce((n, length) => n + length, 0)); // the end-of-text token makes up for the first
  expect(loss).toBeGreaterThan(0);
  expect(task.notes.join("\n")).toMatch(/1 of 150 training texts are longer than 32 tokens \(the longest has \d+\): each of their parts/);
});
