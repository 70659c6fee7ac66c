/** Files of pairs and of preferences, changed in any way: read to what is promised, or refused in words. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, fuzzDirectory, jsonChanges, numRuns, type Outcome, tally, timeout } from "../../tests/fuzz.ts";
import { readPreferences } from "./preferences.ts";
import { readTextPairs } from "./text-pairs.ts";

const directory = fuzzDirectory();

function reading(content: Uint8Array, check: (file: string) => void): Outcome {
  const file = join(directory.path, "pairs.jsonl");
  writeFileSync(file, content);
  return attempt({ names: file, bytes: content.length }, () => check(file));
}

const pairs = (content: Uint8Array): Outcome =>
  reading(content, (file) => {
    const read = readTextPairs(file);
    expect(read.length).toBeGreaterThan(0);
    for (const { texts, score } of read) {
      expect(texts.length).toBe(read[0]!.texts.length);
      for (const text of texts) expect(typeof text === "string" && text.trim() !== "").toBe(true);
      expect(score === undefined || (score >= -1 && score <= 1)).toBe(true);
    }
  });

const preferences = (content: Uint8Array): Outcome =>
  reading(content, (file) => {
    for (const { prompt, chosen, rejected } of readPreferences(file)) {
      expect(new Set([prompt, chosen, rejected].map((said) => typeof said)).size).toBe(1);
      if (typeof chosen === "string" || typeof rejected === "string") continue;
      expect(prompt.length).toBeGreaterThan(0);
      for (const said of [chosen, rejected]) expect(said.at(-1)!.role).toBe("assistant");
    }
  });

const says = (role: string, content: string) => ({ role, content });
const asked = [says("user", "a")];
const cases = [
  [
    "pairs",
    pairs,
    [
      { anchor: "a", positive: "b", negatives: ["c"] },
      { text1: "a", text2: "b", score: 0.5 },
      { sentence1: "a", sentence2: "b", score: "1" },
    ],
  ],
  [
    "preferences",
    preferences,
    [
      { prompt: "a", chosen: "b", rejected: "c" },
      { prompt: asked, chosen: [says("assistant", "b")], rejected: [says("assistant", "c")] },
      { chosen: [...asked, says("assistant", "b")], rejected: [...asked, says("assistant", "c")] },
    ],
  ],
] as const;

test.each(cases)("any change of %s", { timeout }, (_, read, records) => {
  const outcomes = tally();
  const lines = records.map((record) => JSON.stringify(record));
  fc.assert(
    fc.property(fc.constantFrom(...lines).chain(jsonChanges), fc.constantFrom("", ...lines), (changed, line) => {
      outcomes.count(read(Buffer.concat([Buffer.from(line === "" ? "" : `${line}\n`), Buffer.from(changed)])));
    }),
    { numRuns },
  );
  outcomes.expectBoth();
});

test.each(cases)("%s of any values", { timeout }, (_, read) => {
  const key = fc.constantFrom("anchor", "positive", "negative", "negatives", "text1", "text2", "score", "prompt", "chosen", "rejected");
  const line = fc.dictionary(key, fc.jsonValue({ maxDepth: 3 })).map((record) => JSON.stringify(record));
  fc.assert(
    fc.property(fc.array(line, { minLength: 1, maxLength: 3 }), (all) => void read(Buffer.from(all.join("\n")))),
    { numRuns },
  );
});
