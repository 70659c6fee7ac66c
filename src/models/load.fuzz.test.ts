import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, fuzzDirectory, jsonChanges, numRuns, type Outcome, tally, timeout } from "../../tests/fuzz.ts";
import { openSafetensors } from "../checkpoints/index.ts";
import { loadExportable } from "./export/load-exportable.ts";
import { families, familyOf } from "./families/index.ts";
import type { Task } from "./family.ts";
import { loadCausalLM, loadSequenceClassifier } from "./load.ts";
import { loadMaskedLM, loadSentenceEncoder, loadTokenClassifier } from "./load-encoder.ts";
import { loadImageClassifier, loadImageModel, loadImageTextModel } from "./load-image.ts";
import { loadSeq2SeqLM } from "./load-seq2seq.ts";
import { loadCtcModel, loadSpeechModel, loadSpeechSeq2Seq } from "./load-speech.ts";
import { readPooling } from "./pooling.ts";

const loaders: Readonly<Record<Task | "exportable", (directory: string) => unknown>> = {
  exportable: loadExportable,
  causalLM: loadCausalLM,
  sequenceClassifier: (directory) => loadSequenceClassifier(directory, ["a", "b"]),
  tokenClassifier: (directory) => loadTokenClassifier(directory, ["a", "b"]),
  maskedLM: loadMaskedLM,
  sentenceEncoder: loadSentenceEncoder,
  seq2seq: loadSeq2SeqLM,
  imageModel: loadImageModel,
  imageClassifier: (directory) => loadImageClassifier(directory),
  imageTextModel: loadImageTextModel,
  speechModel: loadSpeechModel,
  ctcModel: (directory) => loadCtcModel(directory),
  speechSeq2Seq: loadSpeechSeq2Seq,
};

const fixtures = resolve("tests/fixtures");
const checkpoints = readdirSync(fixtures)
  .filter((name) => ["config.json", "model.safetensors"].every((file) => existsSync(join(fixtures, name, file))))
  .map((name) => {
    const weights = join(fixtures, name, "model.safetensors");
    const config = readFileSync(join(fixtures, name, "config.json"), "utf8");
    const family = familyOf(JSON.parse(config), name);
    return {
      name,
      weights,
      config,
      family,
      tasks: (Object.keys(loaders) as (keyof typeof loaders)[]).filter((task) => task === "exportable" || family[task]),
      // What opening reads of the weights: the header.
      bytes: config.length + Math.min(...[...openSafetensors(weights).tensors.values()].map(({ offset }) => offset)),
    };
  });

const directory = fuzzDirectory();

/** Loads the checkpoint with another config.json. */
function load({ name, weights, bytes, tasks }: (typeof checkpoints)[number], config: string | Uint8Array, choice: number): Outcome {
  const path = join(directory.path, name);
  if (!existsSync(path)) {
    mkdirSync(path);
    symlinkSync(weights, join(path, "model.safetensors"));
  }
  writeFileSync(join(path, "config.json"), config);
  return attempt({ names: path, bytes: bytes + config.length }, () => loaders[tasks[choice % tasks.length]!](path));
}

test("every family has a checkpoint here", () => {
  expect(families.filter((family) => !checkpoints.some((c) => c.family === family)).map(({ name }) => name)).toEqual([]);
  for (const { weights } of checkpoints) expect(statSync(weights).size).toBeGreaterThan(0);
});

test.each(families.map((family) => [family.name, family] as const))("%s: any change of config.json", { timeout }, (_, family) => {
  const outcomes = tally();
  const own = checkpoints.filter((checkpoint) => checkpoint.family === family);
  const changed = fc.nat(own.length - 1).chain((index) => fc.tuple(fc.constant(index), jsonChanges(own[index]!.config), fc.nat()));
  fc.assert(
    fc.property(changed, ([index, config, choice]) => outcomes.count(load(own[index]!, config, choice))),
    { numRuns: Math.ceil(numRuns / 10) },
  );
  outcomes.expectBoth();
});

test("numbers that no model has, in every field that holds a number", { timeout }, () => {
  const chosen = numRuns > 1000 ? checkpoints : families.map((family) => checkpoints.find((c) => c.family === family)!);
  for (const checkpoint of chosen) {
    const config = JSON.parse(checkpoint.config) as Record<string, unknown>;
    for (const [key, value] of Object.entries(config)) {
      if (typeof value !== "number") continue;
      for (const wrong of [1e12, 2 ** 24]) load(checkpoint, JSON.stringify({ ...config, [key]: wrong }), wrong);
    }
  }
});

test("any change of the files that say how a sentence encoder pools", { timeout }, () => {
  const outcomes = tally();
  const folder = join(directory.path, "pooling");
  mkdirSync(join(folder, "1_Pooling"), { recursive: true });
  const files = {
    "1_Pooling/config.json": JSON.stringify({
      word_embedding_dimension: 32,
      pooling_mode_cls_token: false,
      pooling_mode_mean_tokens: true,
    }),
    "modules.json": JSON.stringify(
      ["Transformer", "Pooling", "Normalize"].map((type) => ({ type: `sentence_transformers.models.${type}` })),
    ),
  };
  const changed = fc.oneof(
    ...Object.entries(files).map(([name, text]) => jsonChanges(text).map((content) => ({ ...files, [name]: content }))),
  );
  fc.assert(
    fc.property(changed, (contents) => {
      for (const [name, content] of Object.entries(contents)) writeFileSync(join(folder, name), content);
      outcomes.count(attempt({ names: folder, bytes: 1000 }, () => readPooling(folder)));
    }),
    { numRuns },
  );
  outcomes.expectBoth();
});
