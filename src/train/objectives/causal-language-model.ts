import type { Tensor } from "../../graph/index.ts";
import { crossEntropyOfHead, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface LanguageModel {
  forward(inputs: { ids: Tensor; documentStarts?: Tensor | undefined }): { hidden: Tensor };
  logits(hidden: Tensor): Tensor;
}

/**
 * Next-token prediction. Inputs: `ids` and `targets`, int64 [batch, time]; targets of −100 do not count. Where rows hold several documents,
 * `documentStarts` int64 [batch, time] as in `DecoderInputs`.
 */
export function causalLanguageModel(model: LanguageModel): Objective {
  return {
    name: "causal-lm",
    trace({ ids, targets, documentStarts }) {
      const { losses, weights } = crossEntropyOfHead(model.logits(model.forward({ ids: ids!, documentStarts }).hidden), targets!);
      return { total: sum(losses), weight: sum(weights) };
    },
  };
}
