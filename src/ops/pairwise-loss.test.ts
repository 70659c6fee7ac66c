import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, sample, values, vector } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

const average = (list: readonly number[]) => list.reduce((a, b) => a + b) / list.length;
const softmax = (row: readonly number[]) => row.map((v) => Math.exp(v) / row.reduce((t, w) => t + Math.exp(w), 0));

describe("meanSquaredError", () => {
  checkOp("mean of squares", {
    inputs: { x: vector(1, 2, 4), target: vector(1.5, 2, 1) },
    fn: (i) => ops.meanSquaredError(i.x, i.target),
    expected: [9.25 / 3],
    second: true,
  });
  checkRejects("meanSquaredError", { x: ["float32", 2], t: ["float32", 3] }, (i) => ops.meanSquaredError(i.x, i.t), /one dtype and shape/);
});

describe("binaryCrossEntropy", () => {
  const x = [0.5, -1, 2, 0];
  const t = [1, 0, 0.25, 0.5];
  const sigma = (v: number) => 1 / (1 + Math.exp(-v));
  const each = x.map((v, i) => -t[i]! * Math.log(sigma(v)) - (1 - t[i]!) * Math.log(1 - sigma(v)));
  checkOp("of logits", {
    inputs: { x: vector(...x), t: vector(...t) },
    fn: (i) => [ops.binaryCrossEntropyPerElement(i.x, i.t), ops.binaryCrossEntropy(i.x, i.t)],
    expected: [each, [average(each)]],
    second: true,
  });
  checkOp("of huge logits", {
    inputs: { x: vector(100, -100, 100), t: vector(1, 0, 0) },
    fn: (i) => ops.binaryCrossEntropyPerElement(i.x, i.t),
    expected: [0, 0, 100],
    wrt: ["x"],
  });
  checkRejects(
    "binaryCrossEntropy",
    { x: ["float32", 2], t: ["int64", 2] },
    (i) => ops.binaryCrossEntropy(i.x, i.t),
    /one dtype and shape/,
  );
});

describe("klDivergence", () => {
  const logits = values([2, 3], [0.5, -1, 2, 1, 1, 0]);
  const rows = [logits.data.slice(0, 3), logits.data.slice(3)].map(softmax);
  const divergence = (p: readonly number[], q: readonly number[]) => p.reduce((t, v, i) => t + (v === 0 ? 0 : v * Math.log(v / q[i]!)), 0);
  const target = [
    [0.5, 0.25, 0.25],
    [0, 0.75, 0.25],
  ];
  checkOp("of distributions", {
    inputs: { target: values([2, 3], target.flat()), logits },
    fn: (i) => [ops.klDivergence(i.target, i.logits), ops.klDivergencePerRow(i.target, i.logits)],
    expected: [[average(target.map((p, r) => divergence(p, rows[r]!)))], target.map((p, r) => divergence(p, rows[r]!))],
    wrt: ["logits"],
    second: true,
  });
  const teacher = values([2, 3], [1, 0, -1, 2, 0.5, 0]);
  checkOp("of two sets of logits", {
    inputs: { teacher, logits },
    fn: (i) => ops.klDivergenceOfLogits(i.teacher, i.logits),
    expected: [average([0, 1].map((r) => divergence(softmax(teacher.data.slice(r * 3, r * 3 + 3)), rows[r]!)))],
    second: true,
  });
  checkRejects("klDivergence", { t: ["float32", 2, 3], x: ["float32", 2, 4] }, (i) => ops.klDivergence(i.t, i.x), /one dtype and shape/);
  checkSymbolic("klDivergence", {
    inputs: { a: ["b", 3], b: ["b", 3] },
    sizes: [{ b: 1 }, { b: 3 }],
    fn: (i) => ops.klDivergenceOfLogits(i.a, i.b),
  });
});

describe("cosineSimilarity and cosineEmbeddingLoss", () => {
  const a = sample([3, 4], -1, 1, 1);
  const b = sample([3, 4], -1, 1, 2);
  const cosines = [0, 1, 2].map((r) => {
    const [p, q] = [a.data.slice(r * 4, r * 4 + 4), b.data.slice(r * 4, r * 4 + 4)];
    const dot = (u: readonly number[], v: readonly number[]) => u.reduce((t, w, i) => t + w * v[i]!, 0);
    return dot(p, q) / Math.sqrt(dot(p, p) * dot(q, q));
  });
  checkOp("cosineSimilarity", { inputs: { a, b }, fn: (i) => ops.cosineSimilarity(i.a, i.b), expected: cosines, second: true });
  checkOp("of a vector of zeros: zero, and no NaN", {
    inputs: { a: values([1, 2], [0, 0]), b: values([1, 2], [1, 2]) },
    fn: (i) => ops.cosineSimilarity(i.a, i.b),
    expected: [0],
    wrt: ["b"],
  });
  const labels = [1, -1, -1];
  checkOp("cosineEmbeddingLoss", {
    inputs: { a, b, labels: vector(...labels) },
    fn: (i) => ops.cosineEmbeddingLoss(i.a, i.b, i.labels, -0.9),
    expected: [average(cosines.map((c, i) => (labels[i] === 1 ? 1 - c : Math.max(0, c + 0.9))))],
    wrt: ["a", "b"],
  });
  checkRejects("cosineSimilarity", { a: ["float32", 2], b: ["float32", 3] }, (i) => ops.cosineSimilarity(i.a, i.b), /one dtype and shape/);
  checkRejects(
    "labels",
    { a: ["float32", 2, 3], l: ["float32", 3] },
    (i) => ops.cosineEmbeddingLoss(i.a, i.a, i.l),
    /labels must be float32 \[2\]/,
  );
});
