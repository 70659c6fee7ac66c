import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, fuzzDirectory, jsonChanges, numRuns, tally, timeout } from "../../tests/fuzz.ts";
import { initialState } from "../train/checkpoint.ts";
import { RunDirectory } from "../train/run-directory.ts";
import { prepareRun } from "./run-choice.ts";
import { readTaskRecord, recordFile } from "./task-record.ts";

const directory = fuzzDirectory();

test("any change of espalier.json", { timeout }, () => {
  const outcomes = tally();
  const records = [
    { task: "classification", labels: ["a", "b"], template: "{text}", maxLength: 64, positive: "b" },
    { task: "language-modeling", sequenceLength: 128 },
    { task: "chat", maxLength: 128, chatFormat: "chatml" },
    { task: "regression", template: "{text}", maxLength: 64, mean: 3.5, deviation: 1.25 },
    { task: "token-classification", labels: ["B-PER", "O"], maxLength: 64 },
    { task: "masked-lm", maxLength: 64, maskShare: 0.15, wholeWords: false },
    { task: "ctc", letters: ["<pad>", "|", "a"], gap: "|" },
  ].map((record) => JSON.stringify(record));
  fc.assert(
    fc.property(fc.constantFrom(...records).chain(jsonChanges), (changed) => {
      writeFileSync(join(directory.path, recordFile), changed);
      outcomes.count(
        attempt({ names: directory.path, bytes: changed.length }, () => expect(readTaskRecord(directory.path)?.task).toBeTypeOf("string")),
      );
    }),
    { numRuns },
  );
  outcomes.expectBoth();
});

test("any change of run.json and of a checkpoint's trainer.json", { timeout }, () => {
  const outcomes = tally();
  const run = join(directory.path, "run");
  const checkpoint = join(run, "checkpoints", "step-3");
  mkdirSync(checkpoint, { recursive: true });
  const flags = { data: "mail.csv", model: "base", resume: true, rank: 8, targets: ["q_proj"], template: "{text}" };
  const inputs = { sha256: { data: "0a", model: "0b" }, files: { data: { "mail.csv": { sha256: "0a", bytes: 5 } } } };
  const { resume: _, ...options } = flags;
  const recorded = JSON.stringify({ options: { ...options }, ...inputs });
  const state = JSON.stringify({ ...initialState(), step: 3, tokens: 99, updates: { loss: 3 }, methods: [{ name: "lora", state: {} }] });
  // A safetensors file without tensors.
  writeFileSync(join(checkpoint, "state.safetensors"), Buffer.concat([Buffer.of(2, 0, 0, 0, 0, 0, 0, 0), Buffer.from("{}")]));
  const changed = fc.oneof(fc.tuple(jsonChanges(recorded), fc.constant(state)), fc.tuple(fc.constant(recorded), jsonChanges(state)));
  fc.assert(
    fc.property(changed, ([runJson, trainer]) => {
      writeFileSync(join(run, "run.json"), runJson);
      writeFileSync(join(checkpoint, "trainer.json"), trainer);
      outcomes.count(
        attempt({ names: run, bytes: runJson.length + trainer.length }, () => {
          prepareRun(run, flags, inputs);
          const { path } = new RunDirectory(run).latestCheckpoint()!;
          expect(path).toBe(checkpoint);
          // No variables, so nothing is asked of the device.
          expect(new RunDirectory(run).loadCheckpoint(path, [], undefined as never).step).toBeGreaterThanOrEqual(0);
        }),
      );
    }),
    { numRuns },
  );
  outcomes.expectBoth();
});
