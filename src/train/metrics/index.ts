/** Measures of how well a model does; every one is compared with the field's own program in the tests. */
export * from "./classification.ts";
export {
  meanAbsoluteError,
  meanSquaredError,
  pearsonCorrelation,
  rSquared,
  spearmanCorrelation,
} from "./regression.ts";
export { retrieval } from "./retrieval.ts";
export { type Rouge, rouge } from "./rouge.ts";
export { marksSpans, type Span, spanF1, spansOf } from "./spans.ts";
export { characterErrorRate, wordErrorRate } from "./speech.ts";
export { bleu, chrf, tokenize13a } from "./translation.ts";
