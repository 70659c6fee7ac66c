/** The whole way, as a program goes it: files → processors → models. */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { readJsonObject, readStorage } from "../../src/checkpoints/index.ts";
import { audioProcessor, readWavFile } from "../../src/inputs/audio/index.ts";
import { decodeImage, ImageProcessor } from "../../src/inputs/image/index.ts";
import { loadCtcModel, loadImageTextModel, loadSpeechSeq2Seq, saveModel } from "../../src/models/index.ts";
import type { Module } from "../../src/nn/index.ts";
import { hostTensor } from "../../src/runtime/index.ts";
import { changed, expectEqual, reference, run } from "./reference.ts";

const { directory, tensor } = reference("from-files");
const fixtures = join(directory, "..");
const sounds = await Promise.all(["long.wav", "short.wav"].map((file) => readWavFile(join(fixtures, "audio-inputs", file))));

test("pictures and texts → similarities", async () => {
  const processor = ImageProcessor.fromJson(readJsonObject(join(fixtures, "image-inputs", "clip.json")));
  const pictures = await Promise.all(["rgb.png", "turned.jpg"].map((file) => decodeImage(join(fixtures, "image-inputs", file))));
  const { texts } = readJsonObject(join(directory, "expected.json")) as { texts: number[][] };
  const ids = hostTensor("int64", [texts.length, texts[0]!.length], BigInt64Array.from(texts.flat(), BigInt));
  const model = loadImageTextModel(join(fixtures, "clip-tiny")).freeze();
  const { logits } = await run({ pixels: processor.process(pictures), ids }, (inputs) => ({ logits: model.forward(inputs).logits }));
  expectEqual(logits, tensor("clip"), { tolerance: 1e-4 });
});

test("sounds → letters, frame by frame", async () => {
  const processor = audioProcessor(readJsonObject(join(fixtures, "audio-inputs", "wav2vec2.json")));
  const batch = processor.process(sounds.map(({ samples, sampleRate }) => ({ samples: samples.subarray(0, 1500), sampleRate })));
  const model = loadCtcModel(join(fixtures, "wav2vec2-tiny-stable")).freeze();
  const { logits } = await run({ values: batch.input_values!, mask: batch.attention_mask! }, ({ values, mask }) => ({
    logits: model.forward({ values, attentionMask: mask }).logits,
  }));
  expectEqual(logits, tensor("wav2vec2"), { tolerance: 1e-4 });
});

test("sounds → the beginning of an answer", async () => {
  const processor = audioProcessor(readJsonObject(join(directory, "whisper.json")));
  const model = loadSpeechSeq2Seq(join(fixtures, "whisper-tiny")).freeze();
  const ids = hostTensor("int64", [2, 3], BigInt64Array.of(1n, 90n, 91n, 1n, 90n, 91n));
  const { logits } = await run({ features: processor.process(sounds).input_features!, ids }, ({ features, ids }) => ({
    logits: model.logits(model.forward({ features }, { ids }).hidden),
  }));
  expect(logits!.shape).toEqual([2, 3, 99]);
  expectEqual(logits, tensor("whisper"), { tolerance: 1e-4 });
});

test("what is saved is what was loaded, with the processor and the settings of its answers", async () => {
  const loaders = { "clip-tiny": loadImageTextModel, "hubert-tiny-stable": loadCtcModel, "whisper-tiny": loadSpeechSeq2Seq };
  for (const [name, load] of Object.entries(loaders)) {
    await changed(
      name,
      () => {},
      async (source) => {
        const further = { "preprocessor_config.json": "{}", "generation_config.json": JSON.stringify({ eos_token_id: 2 }) };
        for (const [file, text] of Object.entries(further)) writeFileSync(join(source, file), text);
        const saved = join(source, "saved");
        const model = load(source);
        saveModel(saved, model, { source });
        const again = load(saved);
        expect(again.architecture).toBe(model.architecture);
        const values = (m: Module) => Array.from(m.namedParameters(), ([path, p]) => [path, readStorage(p.storage)]);
        expect(values(again)).toEqual(values(model));
        expect(existsSync(join(saved, "preprocessor_config.json"))).toBe(true);
        expect(existsSync(join(saved, "generation_config.json"))).toBe(name === "whisper-tiny");
      },
    );
  }
});
