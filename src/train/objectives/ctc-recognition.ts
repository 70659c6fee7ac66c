import type { Tensor } from "../../graph/index.ts";
import { ctcLoss, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

interface CtcModel {
  readonly blank: number;
  forward(inputs: { values: Tensor; attentionMask?: Tensor | undefined }): { logits: Tensor; lengths: Tensor | undefined };
}

/**
 * Sounds and what is said in them, without a word on when. Inputs: `values` float32 [batch, samples] and where there is padding `attentionMask` int64
 * [batch, samples]; `labels` int64 [batch, labels], filled up with −100. Sounds with too few frames for their labels do not count.
 */
export function ctcRecognition(model: CtcModel): Objective {
  return {
    name: "ctc",
    trace({ values, attentionMask, labels }) {
      const { logits, lengths } = model.forward({ values: values!, attentionMask });
      const { losses, weights } = ctcLoss(logits, labels!, { blank: model.blank, lengths });
      return { total: sum(losses), weight: sum(weights), outputs: { logits, ...(lengths && { lengths }) } };
    },
  };
}
