import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EspalierError } from "../../graph/index.ts";
import { accuracy, confusionMatrix, logLoss, macroF1, majorityClass, precisionRecallF1, rocAuc } from "./classification.ts";

const predicted = [0, 1, 1, 0, 2, 1];
const actual = [0, 1, 0, 0, 2, 2];

describe("by hand", () => {
  test("accuracy", () => expect(accuracy(predicted, actual)).toBeCloseTo(4 / 6, 12));

  test("precision, recall and F1 of a class", () => {
    expect(precisionRecallF1(predicted, actual, 0)).toEqual({ precision: 1, recall: 2 / 3, f1: 0.8 });
    expect(precisionRecallF1(predicted, actual, 1)).toEqual({ precision: 1 / 3, recall: 1, f1: 0.5 });
    expect(precisionRecallF1(predicted, actual, 2)).toEqual({ precision: 1, recall: 0.5, f1: 2 / 3 });
  });

  test("a class that is neither called nor present scores 0, not NaN", () => {
    expect(precisionRecallF1(predicted, actual, 7)).toEqual({ precision: 0, recall: 0, f1: 0 });
    expect(precisionRecallF1([0, 0], [1, 1], 1)).toEqual({ precision: 0, recall: 0, f1: 0 });
  });

  test("macro F1", () => expect(macroF1(predicted, actual)).toBeCloseTo((0.8 + 0.5 + 2 / 3) / 3, 12));

  test("confusion matrix: rows are the truth", () => {
    expect(confusionMatrix(predicted, actual, 3)).toEqual([
      [2, 1, 0],
      [0, 1, 0],
      [0, 1, 1],
    ]);
  });

  test("ROC AUC", () => {
    expect(rocAuc([0.1, 0.4, 0.35, 0.8], [false, false, true, true])).toBe(0.75);
    expect(rocAuc([1, 2, 3, 4], [false, false, true, true])).toBe(1);
    expect(rocAuc([4, 3, 2, 1], [false, false, true, true])).toBe(0);
    expect(rocAuc([5, 5, 5, 5], [false, true, false, true])).toBe(0.5);
    expect(rocAuc([1, 2, 2, 3], [false, false, true, true])).toBe(0.875);
    expect(rocAuc([-Infinity, Infinity], [false, true])).toBe(1);
    expect(rocAuc([1, 2], [true, true])).toBeNaN();
  });

  test("majority class", () => {
    expect(majorityClass(["ham", "spam", "ham"])).toEqual({ label: "ham", accuracy: 2 / 3 });
    expect(majorityClass([3, 1, 1, 3])).toEqual({ label: 3, accuracy: 0.5 });
  });

  test("log loss", () => {
    const probabilities = [
      [0.5, 0.5],
      [0.2, 0.8],
    ];
    expect(logLoss(probabilities, [0, 1])).toBeCloseTo((Math.log(2) - Math.log(0.8)) / 2, 12);
    expect(logLoss([[1, 0]], [1])).toBeCloseTo(15 * Math.log(10), 9);
  });
});

describe("by definition", () => {
  const scored = fc.array(fc.tuple(fc.integer({ min: 0, max: 6 }), fc.boolean()), { minLength: 1, maxLength: 40 });
  const labelled = fc.array(fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 3 })), { minLength: 1, maxLength: 40 });

  test("ROC AUC is the share of pairs in the right order", () => {
    fc.assert(
      fc.property(scored, (examples) => {
        const positives = examples.filter(([, positive]) => positive);
        const negatives = examples.filter(([, positive]) => !positive);
        const wins = positives.flatMap(([p]) => negatives.map(([n]) => (p > n ? 1 : p === n ? 0.5 : 0) as number));
        const area = rocAuc(
          examples.map(([score]) => score),
          examples.map(([, positive]) => positive),
        );
        if (wins.length === 0) expect(area).toBeNaN();
        else expect(area).toBeCloseTo(wins.reduce((a, b) => a + b, 0) / wins.length, 10);
      }),
    );
  });

  test("everything else follows from the confusion matrix", () => {
    fc.assert(
      fc.property(labelled, (examples) => {
        const called = examples.map(([p]) => p);
        const truth = examples.map(([, a]) => a);
        const matrix = confusionMatrix(called, truth, 4);
        expect(accuracy(called, truth)).toBeCloseTo(matrix.reduce((sum, row, k) => sum + row[k]!, 0) / examples.length, 12);
        const scores: number[] = [];
        for (let k = 0; k < 4; k++) {
          const column = matrix.reduce((sum, row) => sum + row[k]!, 0);
          const row = matrix[k]!.reduce((a, b) => a + b, 0);
          const { precision, recall, f1 } = precisionRecallF1(called, truth, k);
          expect(precision).toBeCloseTo(column ? matrix[k]![k]! / column : 0, 12);
          expect(recall).toBeCloseTo(row ? matrix[k]![k]! / row : 0, 12);
          expect(f1).toBeCloseTo(precision + recall ? (2 * precision * recall) / (precision + recall) : 0, 12);
          if (row + column > 0) scores.push(f1);
        }
        expect(macroF1(called, truth)).toBeCloseTo(scores.reduce((a, b) => a + b, 0) / scores.length, 12);
      }),
    );
  });
});

describe("refusals", () => {
  const cases: [string, string, () => unknown][] = [
    ["lists of two lengths", "length-mismatch", () => accuracy([1], [1, 2])],
    ["nothing", "no-examples", () => rocAuc([], [])],
    ["no labels", "no-examples", () => majorityClass([])],
    ["a NaN score", "score-not-a-number", () => rocAuc([1, Number.NaN], [true, false])],
    ["a class beyond the matrix", "class-out-of-range", () => confusionMatrix([2], [0], 2)],
    ["a class without a probability", "class-out-of-range", () => logLoss([[1]], [1])],
  ];
  for (const [name, code, run] of cases) {
    test(name, () => {
      let error: unknown;
      try {
        run();
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(EspalierError);
      expect((error as EspalierError).code).toBe(code);
    });
  }
});
