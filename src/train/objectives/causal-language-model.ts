import type { Tensor } from "../../graph/index.ts";
import { crossEntropyOfHead, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface LanguageModel {
  forward(inputs: { ids: Tensor }): { hidden: Tensor };
  logits(hidden: Tensor): Tensor;
}

/** Next-token prediction. Inputs: `ids` and `targets`, int64 [batch, time]; targets of −100 do not count. */
export function causalLanguageModel(model: LanguageModel): Objective {
  return {
    name: "causal-lm",
    trace({ ids, targets }) {
      const { losses, weights } = crossEntropyOfHead(model.logits(model.forward({ ids: ids! }).hidden), targets!);
      return { total: sum(losses), weight: sum(weights) };
    },
  };
}
