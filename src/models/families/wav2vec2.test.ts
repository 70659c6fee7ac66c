import { rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { expectFalling, lossesWithLora } from "../../../tests/models/adapt.ts";
import { changed, expectEqual, reference, run } from "../../../tests/models/reference.ts";
import { openSafetensors, writeSafetensors } from "../../checkpoints/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { ctcRecognition } from "../../train/index.ts";
import { loadCtcModel, loadSpeechModel } from "../index.ts";

const frames = 19;

describe.each(["wav2vec2-tiny", "wav2vec2-tiny-stable", "hubert-tiny", "hubert-tiny-stable"])(
  "%s computes what transformers computes",
  (name) => {
    const { directory, tensor } = reference(name);
    const model = loadCtcModel(directory).freeze();

    test("logits and hidden states", async () => {
      expect(model.headIsFresh).toBe(false);
      const { logits, hidden } = await run({ values: tensor("input.input_values") }, ({ values }) => ({
        logits: model.forward({ values }).logits,
        hidden: model.encoder.forward({ values }).hidden,
      }));
      expectEqual(logits, tensor("logits"), { tolerance: 2e-5 });
      expectEqual(hidden, tensor("hidden"), { tolerance: 2e-5 });
    });

    test("a padded batch with its mask: the first sound whole, the second's frames to its end", async () => {
      const feeds = { values: tensor("input.padded"), mask: tensor("input.attention_mask") };
      const { logits, lengths } = await run(feeds, ({ values, mask }) => {
        const out = model.forward({ values, attentionMask: mask });
        return { logits: out.logits, lengths: out.lengths! };
      });
      // Kernels 10, 3, 2 and strides 5, 2, 2: 400 samples → 79 → 39 → 19 frames, 250 → 49 → 24 → 12.
      expect(Array.from(lengths!.data, Number)).toEqual([frames, 12]);
      const vocabulary = 20;
      expectEqual(logits, tensor("masked_logits"), {
        tolerance: 2e-5,
        counts: (i) => i < frames * vocabulary || i < (frames + 12) * vocabulary,
      });
    });

    test("low-rank adapters on its attention learn to spell", async () => {
      const adapted = loadCtcModel(directory);
      const labels = hostTensor("int64", [2, 4], BigInt64Array.of(3n, 7n, 7n, 5n, 11n, 4n, -100n, -100n));
      const batch = { values: tensor("input.padded"), attentionMask: tensor("input.attention_mask"), labels };
      expectFalling(await lossesWithLora(adapted, ["q_proj", "v_proj"], ctcRecognition(adapted), batch));
    });
  },
);

test("the encoder alone, and the older names of a normed weight", async () => {
  const { tensor } = reference("wav2vec2-tiny");
  await changed(
    "wav2vec2-tiny",
    () => {},
    async (directory) => {
      const file = join(directory, "model.safetensors");
      const older = (name: string) =>
        name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v");
      const source = openSafetensors(join(reference("wav2vec2-tiny").directory, "model.safetensors")).tensors;
      rmSync(file);
      writeSafetensors(file, new Map([...source].map(([name, storage]) => [older(name), storage])), { format: "pt" });
      const model = loadSpeechModel(directory).freeze();
      const { hidden } = await run({ values: tensor("input.input_values") }, ({ values }) => ({
        hidden: model.forward({ values }).hidden,
      }));
      expectEqual(hidden, tensor("hidden"), { tolerance: 2e-5 });
    },
  );
});

test("relatives with further parts are refused", async () => {
  const refused = (change: (config: Record<string, unknown>) => void, message: RegExp) =>
    changed("wav2vec2-tiny", change, (directory) => void expect(() => loadCtcModel(directory)).toThrow(message));
  await refused((config) => Object.assign(config, { add_adapter: true }), /"add_adapter" is true/);
  await refused((config) => Object.assign(config, { adapter_attn_dim: 16 }), /"adapter_attn_dim" is 16/);
  await refused((config) => Object.assign(config, { conv_stride: [5, 2] }), /equally long/);
  await refused((config) => Object.assign(config, { num_conv_pos_embedding_groups: 5 }), /"num_conv_pos_embedding_groups" \(5\)/);
});
