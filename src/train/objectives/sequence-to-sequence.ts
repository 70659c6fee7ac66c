import type { Tensor } from "../../graph/index.ts";
import { crossEntropyOfHead, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface SequenceToSequence {
  forward(source: { ids: Tensor; attentionMask?: Tensor | undefined }, inputs: { ids: Tensor }): { hidden: Tensor };
  logits(hidden: Tensor): Tensor;
}

/**
 * One text from another. Inputs: `ids` int64 [batch, source] and `attentionMask` likewise where there is padding; `answer` int64 [batch, time], which
 * begins with the start token, and `targets`, the answer one token further; targets of −100 do not count.
 */
export function sequenceToSequence(model: SequenceToSequence): Objective {
  return {
    name: "seq2seq",
    trace({ ids, attentionMask, answer, targets }) {
      const { hidden } = model.forward({ ids: ids!, attentionMask }, { ids: answer! });
      const { losses, weights } = crossEntropyOfHead(model.logits(hidden), targets!);
      return { total: sum(losses), weight: sum(weights) };
    },
  };
}
