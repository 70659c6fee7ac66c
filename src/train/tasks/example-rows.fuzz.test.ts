import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, fuzzDirectory, jsonChanges, numRuns, tally, timeout } from "../../../tests/fuzz.ts";
import { ctc } from "./ctc.ts";
import { multiLabel } from "./multi-label.ts";
import { regression } from "./regression.ts";
import { seq2seq } from "./seq2seq.ts";
import { tokenClassification } from "./token-classification.ts";

const directory = fuzzDirectory();

/** What users' files hold, by task. */
const cases: [name: string, read: (path: string) => readonly unknown[], record: object][] = [
  ["regression", (path) => regression.read(path, {}), { text: "a b", label: 3.5 }],
  ["token-classification", (path) => tokenClassification.read(path, {}), { tokens: ["a", "b"], labels: ["O", null] }],
  ["multi-label", (path) => multiLabel.read(path, {}), { text: "a", labels: ["x", "y"] }],
  ["seq2seq", (path) => seq2seq.read(path, {}), { source: "a", target: "b" }],
  ["ctc", (path) => ctc.read(path, {}), { audio: "a", text: "what somebody says, in a sentence that is long enough to change" }],
];

test.each(cases)("any change of a line of %s is an example or a message that names the file", { timeout }, (_, read, record) => {
  const outcomes = tally();
  const file = join(directory.path, "data.jsonl");
  writeFileSync(join(directory.path, "a"), ""); // a short name, so that not every change of the line is one of the name
  fc.assert(
    fc.property(jsonChanges(JSON.stringify(record)), (changed) => {
      writeFileSync(file, changed);
      outcomes.count(attempt({ names: directory.path, bytes: changed.length }, () => expect(read(file).length).toBeGreaterThan(0)));
    }),
    { numRuns },
  );
  outcomes.expectBoth();
});
