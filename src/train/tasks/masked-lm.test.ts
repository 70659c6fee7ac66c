/** What is hidden: how much of it, by what, the same at every evaluation and a function of the step alone. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { writeBert } from "../../../tests/cli/task-models.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { loadMaskedLM } from "../../models/load-encoder.ts";
import { cpu } from "../../runtime/node.ts";
import { maskedTask } from "./masked-lm.ts";

const scratch = mkdtempSync(join(tmpdir(), "espalier-masked-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const words = ["sun", "rain", "##s", "##ing", "in", "the"];
const directory = writeBert(join(scratch, "bert"), words, "encoder-bert");
const [model, tokenizer] = [loadMaskedLM(directory), await tokenizerFromDirectory(directory)];
const maskId = tokenizer.tokenId("[MASK]")!;

const texts = Array.from({ length: 60 }, (_, i) => ({
  text: Array.from({ length: 14 }, (_, k) => ["suns", "raining", "in", "the", "rain"][(i * 7 + k * 3) % 5]).join(" "),
  file: "f",
  line: i + 1,
}));
const task = (options: { wholeWords: boolean; maskShare: number; seed?: number }) =>
  maskedTask(model, tokenizer, cpu(), { train: texts, heldOut: texts.slice(0, 3), batchSize: 8, seed: 0, maxLength: 32, ...options });

type Feeds = Record<"ids" | "targets" | "attentionMask", { data: BigInt64Array }>;
const batches = async (source: ReturnType<typeof task>["train"], epochs = 1) => {
  const feeds: Feeds[] = [];
  for (let step = 0; step < epochs * source.batchesPerEpoch; step++) feeds.push((await source.batch(step)).feeds as unknown as Feeds);
  return feeds;
};

test("the share of the tokens is hidden, 80 % by the mask, 10 % by another token, 10 % by nothing; special tokens and padding never", async () => {
  const { train } = task({ wholeWords: false, maskShare: 0.3 });
  const count = { tokens: 0, chosen: 0, mask: 0, kept: 0 };
  for (const { ids, targets, attentionMask } of await batches(train, 8))
    for (const [i, target] of targets.data.entries()) {
      if (attentionMask.data[i] === 1n) count.tokens++;
      if (target === -100n) continue;
      expect(attentionMask.data[i]).toBe(1n);
      expect(Number(target)).toBeGreaterThan(4); // neither [CLS] nor [SEP]
      count.chosen++;
      if (ids.data[i] === BigInt(maskId)) count.mask++;
      else if (ids.data[i] === target) count.kept++;
    }
  expect(count.chosen).toBeGreaterThan(2000);
  expect(count.chosen / count.tokens).toBeCloseTo(0.3 * 0.9, 1); // two of some twenty tokens are special
  expect(count.mask / count.chosen).toBeCloseTo(0.8, 1);
  expect(count.kept / count.chosen).toBeCloseTo(0.1, 1);
});

test("a batch is a function of seed and step, and epochs differ", async () => {
  const [a, again, other] = [0, 0, 1].map((seed) => task({ wholeWords: false, maskShare: 0.15, seed }).train);
  expect(await batches(a!, 2)).toEqual(await batches(again!, 2));
  expect(await batches(a!)).not.toEqual(await batches(other!));
  const [first, second] = [await batches(a!), (await batches(a!, 2)).slice(a!.batchesPerEpoch)];
  expect(first).not.toEqual(second);
});

test("whole words are hidden with all their parts", async () => {
  const { train } = task({ wholeWords: true, maskShare: 0.3 });
  const parts = new Set([tokenizer.tokenId("##s"), tokenizer.tokenId("##ing")].map((id) => BigInt(id!)));
  let pairs = 0;
  for (const { targets } of await batches(train))
    for (const [i, target] of targets.data.entries()) {
      if (!parts.has(target)) continue;
      pairs++;
      expect(targets.data[i - 1]).not.toBe(-100n);
    }
  expect(pairs).toBeGreaterThan(20);
});

test("an evaluation gives the same figure every time", async () => {
  const masked = task({ wholeWords: false, maskShare: 0.15 });
  expect(await masked.evaluate()).toEqual(await masked.evaluate());
});
