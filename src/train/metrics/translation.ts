import { checkPairs, counted, ngrams, overlap } from "./pairs.ts";

/**
 * Cuts a text into words as mteval-v13a does, which sacrebleu calls "13a": symbols stand alone, and points and commas where they are not between digits.
 */
export function tokenize13a(text: string): string[] {
  const plain = text
    .trimEnd()
    .replaceAll("<skipped>", "")
    .replaceAll("-\n", "")
    .replaceAll("\n", " ")
    .replaceAll("&quot;", '"')
    .replaceAll("&amp;", "&")
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">");
  return ` ${plain} `
    .replace(/[!-&(-+/:-@[-`{-~]/g, " $& ")
    .replace(/([^0-9])([.,])/gu, "$1 $2 ")
    .replace(/([.,])([^0-9])/gu, " $1 $2")
    .replace(/([0-9])-/g, "$1 - ")
    .split(/\s+/)
    .filter((word) => word !== "");
}

/**
 * BLEU of a corpus, from 0 to 100: how many runs of one to four words the texts share with their references, texts that are too short punished
 * (Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation"). As sacrebleu has it by default (Post, "A Call for Clarity in
 * Reporting BLEU Scores"): 13a words, case kept, orders without a match smoothed exponentially.
 */
export function bleu(predicted: readonly string[], references: readonly string[]): number {
  checkPairs("bleu", predicted, references);
  const orders = [1, 2, 3, 4];
  const [hits, totals] = [orders.map(() => 0), orders.map(() => 0)];
  let [length, referenceLength] = [0, 0];
  for (const [i, text] of predicted.entries()) {
    const [words, reference] = [tokenize13a(text), tokenize13a(references[i]!)];
    length += words.length;
    referenceLength += reference.length;
    for (const [k, n] of orders.entries()) {
      const own = ngrams(words, n);
      totals[k]! += own.length;
      hits[k]! += overlap(counted(own), counted(ngrams(reference, n)));
    }
  }
  if (hits.every((n) => n === 0) || totals.includes(0)) return 0;
  let halved = 1;
  const logs = orders.map((_, k) => {
    if (hits[k] === 0) halved *= 2;
    return Math.log(hits[k] === 0 ? 1 / (halved * totals[k]!) : hits[k]! / totals[k]!);
  });
  const brevity = length < referenceLength ? Math.exp(1 - referenceLength / length) : 1;
  return 100 * brevity * Math.exp(logs.reduce((a, b) => a + b, 0) / orders.length);
}

/**
 * chrF of a corpus, from 0 to 100: shared runs of one to six characters, blanks left out, recall counting twice as much as precision (Popović, "chrF:
 * character n-gram F-score for automatic MT evaluation"). As sacrebleu has it by default.
 */
export function chrf(predicted: readonly string[], references: readonly string[]): number {
  checkPairs("chrf", predicted, references);
  const orders = [1, 2, 3, 4, 5, 6];
  const [hits, called, present] = [orders.map(() => 0), orders.map(() => 0), orders.map(() => 0)];
  const letters = (text: string) => [...text.replace(/\s+/gu, "")];
  for (const [i, text] of predicted.entries()) {
    const [own, reference] = [letters(text), letters(references[i]!)];
    for (const [k, n] of orders.entries()) {
      const [a, b] = [ngrams(own, n), ngrams(reference, n)];
      // Where the reference is too short for an order, nobody can be wrong in it.
      if (b.length > 0) called[k]! += a.length;
      present[k]! += b.length;
      hits[k]! += overlap(counted(a), counted(b));
    }
  }
  const used = orders.map((_, k) => k).filter((k) => called[k]! > 0 && present[k]! > 0);
  if (used.length === 0) return 0;
  const meanOf = (of: readonly number[]) => used.reduce((sum, k) => sum + hits[k]! / of[k]!, 0) / used.length;
  const [precision, recall] = [meanOf(called), meanOf(present)];
  return precision + recall === 0 ? 0 : (100 * 5 * precision * recall) / (4 * precision + recall);
}
