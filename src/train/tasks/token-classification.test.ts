/** Words and the tokens that they are cut into: the first part carries the label. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { writeBert } from "../../../tests/cli/task-models.ts";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { loadTokenClassifier } from "../../models/load-encoder.ts";
import { cpu } from "../../runtime/node.ts";
import { tokenClassificationTask } from "./token-classification.ts";

const scratch = mkdtempSync(join(tmpdir(), "espalier-tokens-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const directory = writeBert(join(scratch, "bert"), ["sun", "rain", "##s", "##ing", "in"]);
const labels = ["B-X", "I-X", "O"];
const [model, tokenizer] = [loadTokenClassifier(directory, labels), await tokenizerFromDirectory(directory)];
const task = (tokens: string[], target: (string | null)[], maxLength: number) => {
  const example = { tokens, target, text: tokens.join(" "), file: "f", line: 1 };
  return tokenClassificationTask(model, tokenizer, cpu(), {
    labels,
    maxLength,
    train: [example],
    heldOut: [example],
    batchSize: 1,
    seed: 0,
  });
};

test("parts after the first, special tokens, padding and words without a label have no target", async () => {
  const { train } = task(["raining", "in", "suns", "never"], ["B-X", null, "I-X", "O"], 12);
  const { ids, targets } = (await train.batch(0)).feeds;
  const id = (token: string) => BigInt(tokenizer.tokenId(token)!);
  // [CLS] rain ##ing in sun ##s [UNK] [SEP], and padding up to a bucket
  const row = [id("[CLS]"), id("rain"), id("##ing"), id("in"), id("sun"), id("##s"), id("[UNK]"), id("[SEP]")];
  expect([...(ids!.data as BigInt64Array)].slice(0, 8)).toEqual(row);
  expect([...(targets!.data as BigInt64Array)]).toEqual([
    -100n,
    0n,
    -100n,
    -100n,
    1n,
    -100n,
    2n,
    ...new Array(ids!.data.length - 7).fill(-100n),
  ]);
});

test("words that are cut off are told of and not measured", async () => {
  const { notes, evaluate } = task(["raining", "in", "suns"], ["B-X", "O", "B-X"], 5);
  expect(notes.join("\n")).toContain("1 of 1 training texts are longer than 3 tokens (the longest has 5): their last words were cut off");
  const { accuracy } = await evaluate();
  expect([0, 0.5, 1]).toContain(accuracy); // of two words
});

test("words of which none has a label are refused for that", () => {
  expect(() => task(["in", "suns"], [null, null], 12)).toThrow(
    "No word of the training data has a label (all are null), so there is nothing to learn.",
  );
});

test("a text of which no labelled word is left is refused", () => {
  expect(() => task(["in", "in", "in", "suns"], [null, null, null, "O"], 5)).toThrow(
    "No word of the training data has a label within 5 tokens",
  );
});
