/** Every metric against the field's own program: scikit-learn, scipy, seqeval, sacrebleu, rouge_score, jiwer (tests/fixtures/make_metrics.py). */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  accuracy,
  averagedPrecisionRecallF1,
  bleu,
  characterErrorRate,
  chrf,
  marksSpans,
  matthewsCorrelation,
  meanAbsoluteError,
  meanSquaredError,
  pearsonCorrelation,
  rocAuc,
  rouge,
  rSquared,
  spanF1,
  spansOf,
  spearmanCorrelation,
  tokenize13a,
  topKAccuracy,
  wordErrorRate,
} from "./index.ts";

interface Ratios {
  precision: number;
  recall: number;
  f1: number;
}
interface Fixtures {
  classification: { predicted: number[]; actual: number[]; accuracy: number; matthews: number; averaged: Record<string, Ratios> }[];
  topK: { scores: number[][]; actual: number[]; k: number; value: number }[];
  rocAuc: { scores: number[]; positive: boolean[]; value: number | null }[];
  regression: {
    predicted: number[];
    actual: number[];
    mse: number;
    mae: number;
    r2: number;
    pearson: number | null;
    spearman: number | null;
  }[];
  spans: (Ratios & { predicted: string[][]; actual: string[][]; spans: [string, number, number][][] })[];
  tokenized: { text: string; words: string[] }[];
  texts: {
    predicted: string[];
    references: string[];
    bleu: number;
    chrf: number;
    rouge: Record<string, number>;
    wer: number | null;
    cer: number | null;
  }[];
}
const fixtures = JSON.parse(readFileSync(new URL("../../../tests/fixtures/metrics.json", import.meta.url), "utf8")) as Fixtures;

/** NaN where the peer has no figure. */
const near = (value: number, expected: number | null, what: unknown) => {
  if (expected === null) expect(value, JSON.stringify(what)).toBeNaN();
  else expect(Math.abs(value - expected), `${value} for ${expected} of ${JSON.stringify(what)}`).toBeLessThan(1e-9);
};

test("classification: accuracy, Matthews, and precision, recall and F1 in three averages", () => {
  for (const { predicted, actual, averaged, ...expected } of fixtures.classification) {
    near(accuracy(predicted, actual), expected.accuracy, actual);
    near(matthewsCorrelation(predicted, actual), expected.matthews, actual);
    for (const average of ["micro", "macro", "weighted"] as const) {
      const measured = averagedPrecisionRecallF1(predicted, actual, average);
      for (const key of ["precision", "recall", "f1"] as const)
        near(measured[key], averaged[average]![key], { average, predicted, actual });
    }
  }
});

test("top-k accuracy and the area under the ROC curve, ties included", () => {
  for (const { scores, actual, k, value } of fixtures.topK) near(topKAccuracy(scores, actual, k), value, { k });
  for (const { scores, positive, value } of fixtures.rocAuc) near(rocAuc(scores, positive), value, { scores, positive });
});

test("regression: errors, R², and correlations of values and of ranks", () => {
  for (const { predicted, actual, ...expected } of fixtures.regression) {
    near(meanSquaredError(predicted, actual), expected.mse, actual);
    near(meanAbsoluteError(predicted, actual), expected.mae, actual);
    near(rSquared(predicted, actual), expected.r2, actual);
    near(pearsonCorrelation(predicted, actual), expected.pearson, { predicted, actual });
    near(spearmanCorrelation(predicted, actual), expected.spearman, { predicted, actual });
  }
});

test("spans of BIO and BIOES labels, also where they are inconsistent", () => {
  for (const { predicted, actual, spans, ...expected } of fixtures.spans) {
    expect(actual.map((row) => spansOf(row).map(({ type, start, end }) => [type, start, end]))).toEqual(spans);
    const measured = spanF1(predicted, actual);
    for (const key of ["precision", "recall", "f1"] as const) near(measured[key], expected[key], { predicted, actual });
  }
  expect(marksSpans(["O", "B-PER"])).toBe(true);
  expect(marksSpans(["NOUN", "B-PER"])).toBe(false);
  expect(marksSpans(["O"])).toBe(false);
});

test("texts: BLEU, chrF, ROUGE, and the error rates of words and characters", () => {
  for (const { text, words } of fixtures.tokenized) expect(tokenize13a(text)).toEqual(words);
  for (const { predicted, references, ...expected } of fixtures.texts) {
    near(bleu(predicted, references), expected.bleu, { predicted, references });
    near(chrf(predicted, references), expected.chrf, { predicted, references });
    for (const [key, value] of Object.entries(rouge(predicted, references)))
      near(value, expected.rouge[key]!, { key, predicted, references });
    if (expected.wer === null) continue;
    near(wordErrorRate(predicted, references), expected.wer, { predicted, references });
    near(characterErrorRate(predicted, references), expected.cer, { predicted, references });
  }
});

test("refusals: nothing to measure, lists of two lengths, nothing said", () => {
  expect(() => bleu([], [])).toThrow("nothing to measure");
  expect(() => spanF1([["O"]], [["O", "O"]])).toThrow("equally long");
  expect(() => wordErrorRate(["something"], [" "])).toThrow("nothing is said");
  expect(() => topKAccuracy([[0.1, 0.9]], [2], 1)).toThrow("no score");
});
