import type { Tensor } from "../../graph/index.ts";
import { crossEntropyPerTarget, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface SequenceClassifier {
  forward(ids: Tensor, lengths: Tensor): Tensor;
}

/** One label per sequence. Inputs: `ids` int64 [batch, time] right-padded, `lengths` and `labels` int64 [batch]; labels of −100 do not count. */
export function sequenceClassification(model: SequenceClassifier): Objective {
  return {
    name: "sequence-classification",
    trace({ ids, lengths, labels }) {
      const logits = model.forward(ids!, lengths!);
      const { losses, weights } = crossEntropyPerTarget(logits, labels!);
      return { total: sum(losses), weight: sum(weights), outputs: { logits } };
    },
  };
}
