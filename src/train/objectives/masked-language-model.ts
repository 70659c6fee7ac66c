import type { Tensor } from "../../graph/index.ts";
import { crossEntropyOfHead, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface MaskedLanguageModel {
  forward(inputs: { ids: Tensor; attentionMask?: Tensor | undefined }): { hidden: Tensor };
  logits(hidden: Tensor): Tensor;
}

/** Masked tokens filled in. Inputs: `ids` and `targets` int64 [batch, time], `attentionMask` likewise where there is padding; targets of −100 do not count. */
export function maskedLanguageModel(model: MaskedLanguageModel): Objective {
  return {
    name: "masked-lm",
    trace({ ids, attentionMask, targets }) {
      const { hidden } = model.forward({ ids: ids!, attentionMask });
      const { losses, weights } = crossEntropyOfHead(model.logits(hidden), targets!);
      return { total: sum(losses), weight: sum(weights) };
    },
  };
}
