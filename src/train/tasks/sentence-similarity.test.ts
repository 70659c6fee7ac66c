/** Sentence vectors: pairs are read and batched, learnt, and saved for sentence-transformers. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { writeTinyModel } from "../../../tests/cli/tiny-model.ts";
import { textPairBatches } from "../../data/index.ts";
import { readTextPairs } from "../../data/text-pairs.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { families } from "../../models/families/index.ts";
import { loadSentenceEncoder, saveModel } from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { retrieval } from "../metrics/index.ts";
import { adamW } from "../optimizers/index.ts";
import { train } from "../trainer.ts";
import { sentenceSimilarityTask } from "./sentence-similarity.ts";

const device = cpu({ threads: 1 });
const directory = mkdtempSync(join(tmpdir(), "espalier-similarity-"));
const tokenizerFiles = ["tokenizer.json", "tokenizer_config.json"];
const bert = new URL("../../../tests/fixtures/encoder-bert-bare/config.json", import.meta.url);
writeTinyModel(directory);
const decoderConfig = JSON.parse(readFileSync(join(directory, "config.json"), "utf8"));
const family = families.find(({ modelTypes }) => modelTypes.includes("bert"))!;
const source = mkdtempSync(join(tmpdir(), "espalier-similarity-"));
const config = {
  ...JSON.parse(readFileSync(bert, "utf8")),
  vocab_size: decoderConfig.vocab_size,
  hidden_dropout_prob: 0,
  attention_probs_dropout_prob: 0,
  initializer_range: 0.1,
};
saveModel(source, family.sentenceEncoder!(family.readConfig(config, "config.json"), 3));
for (const name of tokenizerFiles) copyFileSync(join(directory, name), join(source, name));
afterAll(async () => {
  await device.dispose();
  for (const made of [directory, source]) rmSync(made, { recursive: true });
});
const tokenizer = await tokenizerFromDirectory(source);
const file = (name: string, ...records: unknown[]): string => {
  const path = join(directory, name);
  writeFileSync(path, records.map((record) => JSON.stringify(record)).join("\n"));
  return path;
};
const things = ["the gardener", "a pear tree", "the old wall", "an apple tree", "the frame", "a young vine"];
const places = ["the south wall", "three wires", "the fence", "a trellis", "the orchard gate"];
const inLatin = ["hortulanus", "pirus", "murus", "malus", "arca", "vitis"];
const whereInLatin = ["ad meridiem", "tribus filis", "saepes", "pergula", "porta pomarii"];
/** The same thing and place in another language, and a neighbour of it. */
const pairs = readTextPairs(
  file(
    "pairs.jsonl",
    ...things.flatMap((thing, i) =>
      places.map((place, k) => ({
        anchor: `${thing} leans on ${place}.`,
        positive: `${inLatin[i]}, ${whereInLatin[k]}.`,
        negative: `${inLatin[(i + 1) % 6]}, ${whereInLatin[k]}.`,
      })),
    ),
  ),
);
const common = { batchSize: 10, seed: 1, maxLength: 24 };
const heldOut = pairs.filter((_, i) => i % 3 === 0);
const options = { model: undefined, optimizer: adamW({ learningRate: 3e-3 }), steps: 40, device };

describe("training", () => {
  test("held-out anchors find their positives after it; in chunks, the same steps", async () => {
    const learn = async (chunk?: number) => {
      const model = loadSentenceEncoder(source);
      const task = sentenceSimilarityTask(model, tokenizer, device, {
        ...common,
        chunk,
        train: pairs.filter((p) => !heldOut.includes(p)),
        heldOut,
      });
      const before = await task.evaluate();
      const losses: number[] = [];
      await train({ ...options, model, objective: task.objective, data: task.train, onStep: ({ loss }) => void losses.push(loss) });
      const after = await task.evaluate();
      await task.dispose();
      return { model, before, after, losses };
    };
    const whole = await learn();
    expect(whole.before.accuracy).toBeLessThan(0.6);
    expect(whole.after.accuracy).toBeGreaterThan(0.8);
    expect(whole.after.meanReciprocalRank).toBeGreaterThanOrEqual(whole.after.accuracy!);
    expect(whole.losses.at(-1)).toBeLessThan(whole.losses[0]! / 2);
    const chunked = await learn(4);
    for (const [i, loss] of chunked.losses.slice(0, 8).entries()) expect(loss).toBeCloseTo(whole.losses[i]!, 3);

    const saved = join(directory, "saved");
    for (const p of whole.model.parameters()) device.persist(p);
    saveModel(saved, whole.model, { source });
    expect(JSON.parse(readFileSync(join(saved, "modules.json"), "utf8"))).toHaveLength(3);
    const task = sentenceSimilarityTask(loadSentenceEncoder(saved), tokenizer, device, { ...common, train: [], heldOut });
    expect((await task.evaluate()).accuracy).toBe(whole.after.accuracy);
    await task.dispose();
  });

  test("scores: cosines come to be in their order", async () => {
    const scored = readTextPairs(
      file(
        "scored.jsonl",
        ...pairs.flatMap(({ texts }, i) => [
          { text1: texts[0], text2: texts[1], score: 0.9 },
          { sentence1: texts[0], sentence2: pairs[(i + 7) % pairs.length]!.texts[1], score: i % 2 === 0 ? 0.2 : 0 },
        ]),
      ),
    );
    const model = loadSentenceEncoder(source);
    const task = sentenceSimilarityTask(model, tokenizer, device, { ...common, train: scored, heldOut: scored.slice(0, 20) });
    const before = await task.evaluate();
    await train({ ...options, model, steps: 30, objective: task.objective, data: task.train });
    const after = await task.evaluate();
    expect(after.spearman).toBeGreaterThan(Math.max(0.6, before.spearman!));
    expect(after.loss).toBeLessThan(before.loss! / 2);
    await task.dispose();
  });
});

describe("batches", () => {
  test("a candidate that is the positive of the same anchor, or the same text, is no negative; nor is a filler row", () => {
    const examples = [
      { texts: [[1], [2, 3], [7]], description: "a" },
      { texts: [[1], [4], [2, 3]], description: "b" },
      { texts: [[5], [6], [8]], description: "c" },
    ];
    const {
      feeds,
      tokens,
      examples: count,
    } = textPairBatches(examples, { batchSize: 4, padId: 0, buckets: [1, 2], shuffle: false }).batch(0);
    expect([...(feeds.labels!.data as BigInt64Array)]).toEqual([0n, 1n, 2n, -100n]);
    expect(feeds.ids0!.shape).toEqual([4, 1]);
    expect(feeds.ids1!.shape).toEqual([4, 2]);
    expect([...(feeds.attentionMask1!.data as BigInt64Array)]).toEqual([1n, 1n, 1n, 0n, 1n, 0n, 1n, 1n]);
    // Columns: four positives, four hard negatives. The second one's negative is the first one's positive.
    expect([...(feeds.excluded!.data as Uint8Array).slice(0, 24)]).toEqual([
      ...[0, 1, 0, 1, 0, 1, 0, 1],
      ...[1, 0, 0, 1, 0, 0, 0, 1],
      ...[0, 0, 0, 1, 0, 0, 0, 1],
    ]);
    expect([tokens, count]).toEqual([11, 3]);
  });
});

describe("data", () => {
  test.each([
    [{ anchor: "a" }, /has no pair of texts/],
    [{ anchor: "a", positive: " " }, /text 2 is empty/],
    [{ anchor: "a", positive: "b", negative: 3 }, /"negative" must be a string/],
    [{ text1: "a", text2: "b" }, /"score" is missing/],
    [{ text1: "a", text2: "b", score: 4.5 }, /"score" is 4.5; it must be a number from -1 to 1/],
    [{ anchor: "a", positive: "b", negative: "c" }, /has 3 texts and no score, but line 1 has 2 texts and no score/],
    [{ text1: "a", text2: "b", score: 1 }, /has 2 texts and a score, but line 1/],
  ])("%j is refused", (record, message) => {
    const path = file("bad.jsonl", { anchor: "a", positive: "b" }, record);
    expect(() => readTextPairs(path)).toThrow(message);
    expect(() => readTextPairs(path)).toThrow(/bad.jsonl line 2/);
  });
});

test("retrieval: ranks by hand; ties count against the model", () => {
  const similarities = [
    [0.9, 0.5, 0.1],
    [0.9, 0.5, 0.6],
    [0.3, 0.3, 0.3],
  ];
  expect(retrieval(similarities, [[0], [1], [2]])).toEqual({ accuracy: 1 / 3, meanReciprocalRank: (1 + 1 / 3 + 1 / 3) / 3 });
  expect(retrieval(similarities, [[0], [0, 1], [2]]).accuracy).toBeCloseTo(2 / 3, 10);
  expect(() => retrieval(similarities, [[0], [], [2]])).toThrow(/needs a right candidate/);
});
