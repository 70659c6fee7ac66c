import type { Tensor } from "../graph/index.ts";
import { add, crossEntropyOfHead, crossEntropyPerTarget, ctcLoss, mul, range, sum, transpose } from "../ops/index.ts";

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

interface ImageTextModel {
  forward(inputs: { pixels: Tensor; ids: Tensor; attentionMask?: Tensor | undefined }): { logits: Tensor };
}

/**
 * The n-th image of a batch belongs to its n-th text: the mean of choosing the text for each image and the image for each text (Radford et al.,
 * "Learning Transferable Visual Models From Natural Language Supervision"). Inputs: `pixels` float32 [batch, channels, height, width], `ids` int64
 * [batch, time] and where there is padding `attentionMask` int64 [batch, time].
 */
export function imageTextMatching(model: ImageTextModel): Objective {
  return {
    name: "image-text-matching",
    trace({ pixels, ids, attentionMask }) {
      const { logits } = model.forward({ pixels: pixels!, ids: ids!, attentionMask });
      const own = range(logits.shape[0]!);
      const [byImage, byText] = [crossEntropyPerTarget(logits, own), crossEntropyPerTarget(transpose(logits), own)];
      return { total: mul(add(sum(byImage.losses), sum(byText.losses)), 0.5), weight: sum(byImage.weights) };
    },
  };
}

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
      return { total: sum(losses), weight: sum(weights), outputs: { logits } };
    },
  };
}
