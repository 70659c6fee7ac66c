import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { beforeAll, expect, test } from "vitest";
import { attempt, fuzzDirectory, jsonChanges, numRuns, type Outcome, tally, timeout } from "../../tests/fuzz.ts";
import { openCheckpoint } from "./hf-directory.ts";

const fixture = "tests/fixtures/llama-tiny-sharded-bf16";
const original = readFileSync(join(fixture, "model.safetensors.index.json"), "utf8");
const { weight_map: map } = JSON.parse(original) as { weight_map: Record<string, string> };
const shards = [...new Set(Object.values(map))];
const root = fuzzDirectory();
let directory: string;
let shardBytes: number;
beforeAll(() => {
  directory = join(root.path, "model");
  cpSync(fixture, directory, { recursive: true });
  shardBytes = shards.reduce((sum, shard) => sum + readFileSync(join(directory, shard)).length, 0);
  // What must not be reached, though it is there.
  cpSync(join(fixture, shards[0]!), join(root.path, "outside.safetensors"));
  // And what is no file.
  mkdirSync(join(directory, "folder.safetensors"));
});

function open(index: string | Uint8Array): Outcome {
  writeFileSync(join(directory, "model.safetensors.index.json"), index);
  return attempt({ names: directory, bytes: index.length + shardBytes }, () => {
    for (const storage of openCheckpoint(directory).tensors.values()) {
      if (storage.kind !== "file") throw new Error("a shard holds files");
      expect(dirname(storage.file)).toBe(directory);
    }
  });
}

test("any change of model.safetensors.index.json", { timeout }, () => {
  const outcomes = tally();
  fc.assert(
    fc.property(jsonChanges(original), (index) => outcomes.count(open(index))),
    { numRuns },
  );
  outcomes.expectBoth();
});

test("any tensors in any shards: none is read outside of the directory", { timeout }, () => {
  const outcomes = tally();
  const tensor = fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...Object.keys(map)) }, { weight: 1, arbitrary: fc.string() });
  const odd = fc.constantFrom(
    "../outside.safetensors",
    "./model-00001-of-00003.safetensors",
    "..",
    "",
    ".",
    "folder.safetensors",
    "config.json",
    "/dev/zero",
    "/etc/passwd",
    "\u0000",
    "C:\\x",
    "a/../../outside.safetensors",
    "missing.safetensors",
  );
  const entry = fc.tuple(
    tensor,
    fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...shards) }, { weight: 1, arbitrary: odd }, { weight: 1, arbitrary: fc.string() }),
  );
  const right = fc.constantFrom(...Object.entries(map));
  const entries = fc.oneof(fc.array(right, { maxLength: 20 }), fc.array(fc.oneof(right, entry), { maxLength: 5 }));
  fc.assert(
    fc.property(entries, (list) => outcomes.count(open(JSON.stringify({ weight_map: Object.fromEntries(list) })))),
    { numRuns },
  );
  outcomes.expectBoth();
});

test("a hundred thousand tensors in one shard, and in as many", { timeout }, () => {
  const many = Object.fromEntries(Array.from({ length: 1e5 }, (_, i) => [`tensor.${i}`, shards[0]]));
  expect(open(JSON.stringify({ weight_map: many }))).toBe("refused");
  const missing = Object.fromEntries(Array.from({ length: 1e5 }, (_, i) => [`tensor.${i}`, `shard-${i}.safetensors`]));
  expect(open(JSON.stringify({ weight_map: missing }))).toBe("refused");
});
