import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { espalier, refusal, scratch } from "./command.ts";
import { sentences, writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const good = writeLabelled(at("good.jsonl"));

function write(name: string, content: string): string {
  writeFileSync(at(name), content);
  return at(name);
}

/** Trains on a file that must be refused before anything is written; returns the message. */
async function train(data: string, ...flags: string[]): Promise<string> {
  const message = refusal(await espalier("train", "--model", model, "--data", data, "--run", at("run"), "--max-length", "48", ...flags));
  expect(existsSync(at("run"))).toBe(false);
  return message;
}

const line = (i: number, label: string) => JSON.stringify({ text: sentences[i], label });

test("a broken line is named with its file, and the other broken lines are counted", async () => {
  const data = write("broken.jsonl", [line(0, "a"), line(1, "b"), '{"text": "cut', line(3, "a"), "[1]", "{}"].join("\n"));
  const message = await train(data);
  expect(message).toContain(`${data} line 3: is not valid JSON`);
  expect(message).toContain("2 other lines are broken too (lines 5, 6).");
});

test("an empty file, a missing one, a directory and an unknown format", async () => {
  expect(await train(write("empty.jsonl", ""))).toContain("empty.jsonl: is empty");
  expect(await train(at("missing.jsonl"))).toContain("missing.jsonl: there is no such file");
  expect(await train(model)).toContain("is a directory without data files in it");
  expect(await train(write("data.xml", "<a/>"))).toContain('data.xml: has the extension ".xml"');
});

test("a label that never occurs in training", async () => {
  const heldOut = write("held.jsonl", [line(0, "tree"), line(1, "shrub"), line(2, "moss")].join("\n"));
  expect(await train(good, "--eval-data", heldOut)).toContain(
    `${heldOut} line 2: the label "shrub" never occurs in the training data (other, tree); 2 held-out examples have such labels.`,
  );
});

test("held-out data without labels, one label only, no labels at all", async () => {
  const bare = write("bare.jsonl", [0, 1, 2].map((i) => JSON.stringify({ text: sentences[i] })).join("\n"));
  expect(await train(good, "--eval-data", bare)).toContain(`${bare} has no labels`);
  expect(await train(bare, "--task", "classification")).toContain(`${bare} has no labels`);
  const one = write("one.jsonl", Array.from({ length: 9 }, (_, i) => line(i * 11, "only")).join("\n"));
  expect(await train(one)).toContain('Classification needs at least two labels in the training data; it has only "only"');
});

test("a column that is not there", async () => {
  const csv = write("data.csv", "body,label\na tree,tree\na wall,other\n");
  expect(await train(csv)).toContain('the header has no column "text"; its columns are "body", "label"');
});

test("eval refuses a label that the adapter does not know", async () => {
  const run = at("trained");
  const flags = ["--steps", "1", "--max-length", "48", "--run", run];
  expect((await espalier("train", "--model", model, "--data", good, ...flags)).code).toBe(0);
  const other = write("other.jsonl", [line(0, "tree"), line(1, "moss")].join("\n"));
  expect(refusal(await espalier("eval", "--adapter", join(run, "adapter"), "--data", other))).toContain(
    `${other} line 2: the model does not know the label "moss"; it tells other, tree apart.`,
  );
});

test("files that classify cannot read, or that hold nothing", async () => {
  const adapter = join(at("trained"), "adapter");
  expect(refusal(await espalier("classify", "--adapter", adapter, at("gone.eml")))).toContain("gone.eml cannot be read (ENOENT)");
  expect(refusal(await espalier("classify", "--adapter", adapter, write("blank.txt", " \n")))).toContain("blank.txt holds no text");
  expect(refusal(await espalier("generate", "--model", model, "--prompt", `@${at("gone.txt")}`))).toContain("The prompt file");
});

test("a text too short to hold anything out", async () => {
  expect(await train(write("short.txt", "a"))).toMatch(/held-out part of the data holds no text|at least 2/);
});
