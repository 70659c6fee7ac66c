import { describe, expect, test } from "vitest";
import { expectFalling, lossesWithLora } from "../../../tests/models/adapt.ts";
import { changed, expectEqual, reference, run } from "../../../tests/models/reference.ts";
import { trace } from "../../graph/index.ts";
import { type HostTensor, hostTensor } from "../../runtime/index.ts";
import { imageTextMatching } from "../../train/index.ts";
import { loadImageTextModel } from "../index.ts";

const { directory, tensor } = reference("clip-tiny");
const model = loadImageTextModel(directory).freeze();
const firstTwo = ({ dtype, shape, data }: HostTensor) =>
  hostTensor(dtype, [2, ...shape.slice(1)], data.slice(0, (2 * data.length) / shape[0]!));
const feeds = { pixels: tensor("input.pixel_values"), ids: tensor("input.input_ids"), mask: tensor("input.attention_mask") };

describe("CLIP computes what transformers computes", () => {
  test("embeddings and similarities of images and padded texts", async () => {
    const { images, texts, logits } = await run(feeds, ({ pixels, ids, mask }) => ({
      ...model.forward({ pixels, ids, attentionMask: mask }),
    }));
    expectEqual(images, tensor("image_embeds"));
    expectEqual(texts, tensor("text_embeds"));
    expectEqual(logits, tensor("logits_per_image"));
  });

  test("hidden states of both towers, where the mask is 1", async () => {
    const { images, texts } = await run(feeds, ({ pixels, ids, mask }) => ({
      images: model.vision_model.forward(pixels).hidden,
      texts: model.text_model.forward(ids, mask).hidden,
    }));
    expectEqual(images, tensor("image_hidden"));
    expectEqual(texts, tensor("text_hidden"), { counts: (i) => Number(feeds.mask.data[Math.floor(i / 32)]) === 1 });
  });

  test("texts are causal, so that padding after the end needs no mask", async () => {
    const { texts } = await run({ ids: feeds.ids }, ({ ids }) => ({ texts: model.embedTexts(ids) }));
    expectEqual(texts, tensor("text_embeds"));
  });

  test("old configurations, which end texts at their largest id", async () => {
    const old = (config: Record<string, unknown>) => {
      (config.text_config as Record<string, unknown>).eos_token_id = 0;
      config.text_config_dict = { eos_token_id: 2 };
    };
    await changed("clip-tiny", old, async (copy) => {
      const { texts } = await run({ ids: tensor("input.old_ids") }, ({ ids }) => ({ texts: loadImageTextModel(copy).embedTexts(ids) }));
      expectEqual(texts, tensor("text_embeds.old"));
    });
  });
});

test("low-rank adapters on both towers learn which text belongs to which image", async () => {
  const adapted = loadImageTextModel(directory);
  const [pixels, ids, attentionMask] = [feeds.pixels, feeds.ids, feeds.mask].map(firstTwo) as [HostTensor, HostTensor, HostTensor];
  expectFalling(await lossesWithLora(adapted, ["q_proj", "v_proj"], imageTextMatching(adapted), { pixels, ids, attentionMask }));
  expect(adapted.trainableParameters().some(({ name }) => name.startsWith("text_model."))).toBe(true);
  expect(adapted.trainableParameters().some(({ name }) => name.startsWith("vision_model."))).toBe(true);
});

test("a text that is too long is refused", () => {
  expect(() => trace({ ids: { dtype: "int64", shape: [1, 9] } }, ({ ids }) => ({ y: model.embedTexts(ids) }))).toThrow(
    /9 tokens.*8 places/,
  );
});

test("matching n images with n texts: by hand from the similarities", async () => {
  const [pixels, ids, attentionMask] = [feeds.pixels, feeds.ids, feeds.mask].map(firstTwo) as [HostTensor, HostTensor, HostTensor];
  const { total, weight } = await run({ pixels, ids, attentionMask }, (inputs) => {
    const { total, weight } = imageTextMatching(model).trace(inputs);
    return { total, weight };
  });
  // Rows are images and columns texts; the third text is left out.
  const [a, b, , c, d] = tensor("logits_per_image").data as Float32Array as unknown as [number, number, number, number, number];
  const loss = (own: number, other: number) => Math.log(1 + Math.exp(other - own));
  expect(total!.data[0]).toBeCloseTo((loss(a, b) + loss(d, c) + loss(a, c) + loss(d, b)) / 2, 4);
  expect(weight!.data[0]).toBe(2);
});
