import type { Tensor } from "../graph/index.ts";
import { crossEntropyOfHead, crossEntropyPerTarget, sum } from "../ops/index.ts";

/** What training minimises: `total / weight`, where both add up over the parts of a batch. */
export interface Objective {
  readonly name: string;
  /** Traces the objective over one batch's inputs. Further outputs serve the evaluation. */
  trace(inputs: Readonly<Record<string, Tensor>>): ObjectiveOutputs;
}

export interface ObjectiveOutputs {
  /** Sum of the losses, a scalar. */
  total: Tensor;
  /** Number (or weight) of the targets, a scalar. */
  weight: Tensor;
  outputs?: Readonly<Record<string, Tensor>>;
}

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
