export { causalLanguageModel } from "./causal-language-model.ts";
export { ctcRecognition } from "./ctc-recognition.ts";
export { imageClassification } from "./image-classification.ts";
export { imageTextMatching } from "./image-text-matching.ts";
export { maskedLanguageModel } from "./masked-language-model.ts";
export type { Objective, ObjectiveOutputs } from "./objective.ts";
export { sequenceClassification } from "./sequence-classification.ts";
export { sequenceToSequence } from "./sequence-to-sequence.ts";
