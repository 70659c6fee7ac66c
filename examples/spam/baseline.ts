import { Random } from "../../src/graph/index.ts";
import { accuracy, majorityClass, precisionRecallF1, rocAuc } from "../../src/train/metrics/index.ts";
import { prepareSpamData, readSpamExamples, type SpamExample } from "./data.ts";

/**
 * What counting words achieves on the same split: the reference that an adapted model must be compared with. Multinomial naive
 * Bayes, and logistic regression over the presence of words, at several lengths to which the text is cut, since a small model
 * reads only the first few hundred characters.
 *
 *     npx tsx examples/spam/baseline.ts
 */
const lengths = [200, 400, 800, 1600, Number.POSITIVE_INFINITY];

const { train: trainPath, heldOut: heldOutPath } = await prepareSpamData();
const train = await readSpamExamples(trainPath);
const heldOut = await readSpamExamples(heldOutPath);

const majority = majorityClass(train.map((example) => example.label));
const majorityAccuracy = heldOut.filter((example) => example.label === majority.label).length / heldOut.length;
console.log(`always "${majority.label}": accuracy ${majorityAccuracy.toFixed(4)} on ${heldOut.length} held-out mails\n`);
console.log("| characters | classifier | accuracy | F1 (spam) | ROC AUC |\n|---:|---|---:|---:|---:|");
for (const length of lengths) {
  const bags = bagsOfWords(train, length);
  const report = (name: string, score: (words: Map<string, number>) => number) => {
    const scores = heldOut.map((example) => score(wordCounts(example.text.slice(0, length))));
    const called = scores.map((value) => (value > 0 ? 1 : 0));
    const actual = heldOut.map((example) => (example.label === "spam" ? 1 : 0));
    const auc = rocAuc(
      scores,
      actual.map((value) => value === 1),
    );
    const figures = [accuracy(called, actual), precisionRecallF1(called, actual, 1).f1, auc].map((figure) => figure.toFixed(4));
    console.log(`| ${Number.isFinite(length) ? length : "all"} | ${name} | ${figures.join(" | ")} |`);
  };
  report("naive Bayes", naiveBayes(bags));
  report("logistic regression", logisticRegression(bags));
}

interface Bag {
  words: Map<string, number>;
  spam: boolean;
}

function bagsOfWords(examples: SpamExample[], length: number): Bag[] {
  return examples.map(({ text, label }) => ({ words: wordCounts(text.slice(0, length)), spam: label === "spam" }));
}

function wordCounts(text: string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const [word] of text.toLowerCase().matchAll(/[\p{L}\p{N}$£€'-]+|[!?@%*#[\]>|]/gu)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}

/** The score of a text: log P(words, spam) − log P(words, ham), with counts smoothed by one (Laplace). */
function naiveBayes(bags: Bag[]): (words: Map<string, number>) => number {
  const totals = { spam: 0, ham: 0 };
  const counts = new Map<string, { spam: number; ham: number }>();
  for (const { words, spam } of bags) {
    const side = spam ? "spam" : "ham";
    for (const [word, count] of words) {
      const entry = counts.get(word) ?? { spam: 0, ham: 0 };
      entry[side] += count;
      totals[side] += count;
      counts.set(word, entry);
    }
  }
  const spamMails = bags.filter((bag) => bag.spam).length;
  const prior = Math.log(spamMails / (bags.length - spamMails));
  const scale = Math.log((totals.ham + counts.size) / (totals.spam + counts.size));
  return (words) => {
    let score = prior;
    for (const [word, count] of words) {
      const entry = counts.get(word);
      if (entry) score += count * (Math.log((entry.spam + 1) / (entry.ham + 1)) + scale);
    }
    return score;
  };
}

/** The score of a text: the log-odds. Adagrad on L2-regularised log loss, over words in at least two mails, each bag of unit length. */
function logisticRegression(bags: Bag[]): (words: Map<string, number>) => number {
  const mails = new Map<string, number>();
  for (const { words } of bags) for (const word of words.keys()) mails.set(word, (mails.get(word) ?? 0) + 1);
  const index = new Map([...mails].filter(([, count]) => count >= 2).map(([word], i) => [word, i] as const));
  const features = (words: Map<string, number>) => Int32Array.from([...words.keys()].flatMap((word) => index.get(word) ?? []));
  const rows = bags.map(({ words, spam }) => ({ active: features(words), spam: spam ? 1 : 0 }));
  const weights = new Float64Array(index.size);
  const squares = new Float64Array(index.size).fill(1e-8);
  let bias = 0;
  let biasSquares = 1e-8;
  const logOdds = (active: Int32Array) => {
    let sum = 0;
    for (const i of active) sum += weights[i]!;
    return bias + sum / Math.sqrt(active.length || 1);
  };
  const [epochs, learningRate, decay] = [12, 0.5, 1e-5];
  for (let epoch = 0; epoch < epochs; epoch++) {
    for (const { active, spam } of new Random(1, epoch).shuffle([...rows])) {
      const slope = 1 / (1 + Math.exp(-logOdds(active))) - spam;
      const value = 1 / Math.sqrt(active.length || 1);
      for (const i of active) {
        const gradient = slope * value + decay * weights[i]!;
        squares[i]! += gradient * gradient;
        weights[i]! -= (learningRate * gradient) / Math.sqrt(squares[i]!);
      }
      biasSquares += slope * slope;
      bias -= (learningRate * slope) / Math.sqrt(biasSquares);
    }
  }
  return (words) => logOdds(features(words));
}
