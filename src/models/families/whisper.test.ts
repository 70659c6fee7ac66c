import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { expectFalling, lossesWithLora } from "../../../tests/models/adapt.ts";
import { changed, device, expectEqual, reference, run } from "../../../tests/models/reference.ts";
import { readJsonObject } from "../../checkpoints/index.ts";
import { Transcriber } from "../../generate/transcribe.ts";
import { trace } from "../../graph/index.ts";
import { crossEntropyPerTarget, sum } from "../../ops/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import type { Objective } from "../../train/index.ts";
import { loadSpeechSeq2Seq, whisperSettings } from "../index.ts";

const { directory, tensor } = reference("whisper-tiny");
const { greedy } = readJsonObject(join(directory, "expected.json")) as { greedy: { forced: number[]; generated: number[][] } };
const model = loadSpeechSeq2Seq(directory).freeze();
const features = tensor("input.input_features");
const transcriber = await Transcriber.create(device, model);
afterAll(() => transcriber.dispose());
const settings = whisperSettings(directory);
const count = greedy.generated[0]!.length;

describe("Whisper computes what transformers computes", () => {
  test("the encoder's states, and logits of a whole answer", async () => {
    const { states, logits } = await run({ features, ids: tensor("input.decoder_input_ids") }, (inputs) => ({
      states: model.model.encoder.forward(inputs.features),
      logits: model.logits(model.forward({ features: inputs.features }, { ids: inputs.ids }).hidden),
    }));
    expectEqual(states, tensor("encoder"));
    expectEqual(logits, tensor("logits"), { tolerance: 2e-5 });
  });

  test("greedy answers from forced tokens, with caches of both attentions and suppressed tokens", async () => {
    // The reference never stops.
    const answers = await transcriber.transcribe(features, { ...settings, endIds: [], prefix: greedy.forced, maxNewTokens: count });
    expect(answers).toEqual(greedy.generated);
  });

  test("answers end at the end token, and at the model's last place", async () => {
    const [first, second] = greedy.generated as [number[], number[]];
    const end = first[4]!;
    const answers = await transcriber.transcribe(features, { ...settings, endIds: [end], prefix: greedy.forced, maxNewTokens: count });
    expect(answers[0]).toEqual(first.slice(0, first.indexOf(end) + 1));
    expect(answers[1]).toEqual(second.includes(end) ? second.slice(0, second.indexOf(end) + 1) : second);
    const whole = await transcriber.transcribe(features, { ...settings, endIds: [], prefix: greedy.forced });
    expect(whole[0]!.length).toBe(24 - 1 - 2);
  });

  test("of a list in the prefix, each sound has its likeliest", async () => {
    const free = await transcriber.transcribe(features, { endIds: [], maxNewTokens: 1 });
    const everything = Array.from({ length: 99 }, (_, id) => id);
    const chosen = await transcriber.transcribe(features, { endIds: [], prefix: [everything], maxNewTokens: 1 });
    const forced = await Promise.all(
      [0, 1].map(async (row) => (await transcriber.transcribe(features, { endIds: [], prefix: [free[row]![0]!], maxNewTokens: 1 }))[row]),
    );
    expect(chosen).toEqual(forced);
  });
});

test("low-rank adapters on both attentions learn an answer", async () => {
  const adapted = loadSpeechSeq2Seq(directory);
  const objective: Objective = {
    name: "test",
    trace({ features, ids, targets }) {
      const logits = adapted.logits(adapted.forward({ features: features! }, { ids: ids! }).hidden);
      const { losses, weights } = crossEntropyPerTarget(logits, targets!);
      return { total: sum(losses), weight: sum(weights) };
    },
  };
  const ids = tensor("input.decoder_input_ids");
  const targets = hostTensor(
    "int64",
    ids.shape,
    (ids.data as BigInt64Array).map((id) => (id * 3n) % 99n),
  );
  expectFalling(await lossesWithLora(adapted, ["q_proj", "v_proj"], objective, { features, ids, targets }));
  expect(adapted.trainableParameters().some(({ name }) => name.includes("encoder_attn"))).toBe(true);
});

describe("settings", () => {
  const withGeneration = (settings: object, use: (directory: string) => void) =>
    changed(
      "whisper-tiny",
      () => {},
      (copy) => {
        writeFileSync(join(copy, "generation_config.json"), JSON.stringify(settings));
        use(copy);
      },
    );
  const published = {
    eos_token_id: 2,
    suppress_tokens: [-1, 50],
    begin_suppress_tokens: [52],
    lang_to_id: { "<|en|>": 90, "<|de|>": 91 },
    task_to_id: { transcribe: 92, translate: 93 },
    no_timestamps_token_id: 94,
  };

  test("of an old checkpoint come from config.json", () => {
    expect(settings).toEqual({ endIds: [2], suppress: [31], suppressFirst: [2, 19], prefix: [] });
  });

  test("language, task and no time stamps begin an answer; without a language, the one that is heard", async () => {
    await withGeneration(published, (copy) => {
      expect(whisperSettings(copy, { language: "de", task: "translate" })).toEqual({
        endIds: [2],
        suppress: [50],
        suppressFirst: [52],
        prefix: [91, 93, 94],
      });
      expect(whisperSettings(copy).prefix).toEqual([[90, 91], 92, 94]);
      expect(() => whisperSettings(copy, { language: "d" })).toThrow(/no language "d". Nearest: de/);
    });
    await withGeneration({ eos_token_id: 2, no_timestamps_token_id: 94 }, (copy) => {
      expect(whisperSettings(copy).prefix).toEqual([94]);
      expect(() => whisperSettings(copy, { language: "de" })).toThrow(/names no languages/);
    });
    await withGeneration(
      {
        eos_token_id: 2,
        forced_decoder_ids: [
          [1, 90],
          [2, 92],
        ],
      },
      (copy) => {
        expect(whisperSettings(copy).prefix).toEqual([90, 92]);
      },
    );
    await withGeneration({ eos_token_id: "end" }, (copy) => {
      expect(() => whisperSettings(copy)).toThrow(/"eos_token_id"/);
    });
  });
});

test("a spectrogram of another length is refused", () => {
  expect(() =>
    trace({ features: { dtype: "float32", shape: [1, 8, 38] } }, ({ features }) => ({ y: model.model.encoder.forward(features) })),
  ).toThrow(/hears spectrograms \[batch, 8, 40\], not \[1, 8, 38\]/);
});
