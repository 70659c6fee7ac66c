import type { Tensor } from "../../graph/index.ts";
import { add, crossEntropyPerTarget, mul, range, sum, transpose } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface ImageTextModel {
  forward(inputs: { pixels: Tensor; ids: Tensor; attentionMask?: Tensor | undefined }): { logits: Tensor };
}

/**
 * The n-th image of a batch belongs to its n-th text: the mean of choosing the text for each image and the image for each text (Radford et al.,
 * "Learning Transferable Visual Models From Natural Language Supervision"). Inputs: `pixels` float32 [batch, channels, height, width], `ids` int64
 * [batch, time] and where there is padding `attentionMask` int64 [batch, time].
 */
export function imageTextMatching(model: ImageTextModel): Objective {
  return {
    name: "image-text-matching",
    trace({ pixels, ids, attentionMask }) {
      const { logits } = model.forward({ pixels: pixels!, ids: ids!, attentionMask });
      const own = range(logits.shape[0]!);
      const [byImage, byText] = [crossEntropyPerTarget(logits, own), crossEntropyPerTarget(transpose(logits), own)];
      return { total: mul(add(sum(byImage.losses), sum(byText.losses)), 0.5), weight: sum(byImage.weights) };
    },
  };
}
