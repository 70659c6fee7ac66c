import type { Tensor } from "../../graph/index.ts";
import { binaryCrossEntropyPerElement, mean, mul, sub, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface SequenceModel {
  forward(ids: Tensor, lengths: Tensor): Tensor;
}

/**
 * Numbers for each sequence: the mean of the squared errors. Inputs: `ids` int64 [batch, time] right-padded, `lengths` int64 [batch], `values` float32
 * [batch, numbers], and `weights` float32 [batch], 0 for rows that do not count.
 */
export function sequenceRegression(model: SequenceModel): Objective {
  return perSequence("sequence-regression", model, (outputs, values) => {
    const difference = sub(outputs, values);
    return mul(difference, difference);
  });
}

/** Any number of labels for each sequence: the mean of the binary cross-entropies. Inputs as of {@link sequenceRegression}, `values` being 0 or 1. */
export function multiLabelClassification(model: SequenceModel): Objective {
  return perSequence("multi-label-classification", model, binaryCrossEntropyPerElement);
}

function perSequence(name: string, model: SequenceModel, lossOf: (outputs: Tensor, values: Tensor) => Tensor): Objective {
  return {
    name,
    trace({ ids, lengths, values, weights }) {
      const logits = model.forward(ids!, lengths!);
      const losses = mean(lossOf(logits, values!), -1);
      return { total: sum(mul(losses, weights!)), weight: sum(weights!), outputs: { logits } };
    },
  };
}
