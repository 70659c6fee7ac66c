import type { Tensor } from "../../graph/index.ts";
import { crossEntropyPerTarget, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface TokenClassifier {
  forward(inputs: { ids: Tensor; attentionMask?: Tensor | undefined }): Tensor;
}

/**
 * One label per token. Inputs: `ids` and `targets` int64 [batch, time], `attentionMask` likewise where there is padding; targets of −100 do not count:
 * padding, and the later parts of words.
 */
export function tokenClassification(model: TokenClassifier): Objective {
  return {
    name: "token-classification",
    trace({ ids, attentionMask, targets }) {
      const logits = model.forward({ ids: ids!, attentionMask });
      const { losses, weights } = crossEntropyPerTarget(logits, targets!);
      return { total: sum(losses), weight: sum(weights), outputs: { logits } };
    },
  };
}
