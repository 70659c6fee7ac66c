import type { Tensor } from "../../graph/index.ts";
import { crossEntropyPerTarget, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface ImageClassifier {
  forward(pixels: Tensor): Tensor;
}

/** One label per image. Inputs: `pixels` float32 [batch, channels, height, width], `labels` int64 [batch]; labels of −100 do not count. */
export function imageClassification(model: ImageClassifier): Objective {
  return {
    name: "image-classification",
    trace({ pixels, labels }) {
      const logits = model.forward(pixels!);
      const { losses, weights } = crossEntropyPerTarget(logits, labels!);
      return { total: sum(losses), weight: sum(weights), outputs: { logits } };
    },
  };
}
