import { ratios } from "./classification.ts";
import { checkPairs, counted, ngrams, overlap } from "./pairs.ts";

/** Means over the texts of the F1 of shared words, of shared pairs of words, and of the longest common subsequence, each from 0 to 1. */
export interface Rouge {
  rouge1: number;
  rouge2: number;
  rougeL: number;
}

/** ROUGE (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries"). Words are runs of a–z and 0–9 in lower case without stemming, as in rouge_score. */
export function rouge(predicted: readonly string[], references: readonly string[]): Rouge {
  checkPairs("rouge", predicted, references);
  const total = { rouge1: 0, rouge2: 0, rougeL: 0 };
  for (const [i, text] of predicted.entries()) {
    const [own, reference] = [words(text), words(references[i]!)];
    const shared = (n: number) => {
      const [a, b] = [ngrams(own, n), ngrams(reference, n)];
      return ratios(overlap(counted(a), counted(b)), a.length, b.length).f1;
    };
    total.rouge1 += shared(1);
    total.rouge2 += shared(2);
    total.rougeL += ratios(longestCommon(own, reference), own.length, reference.length).f1;
  }
  const n = predicted.length;
  return { rouge1: total.rouge1 / n, rouge2: total.rouge2 / n, rougeL: total.rougeL / n };
}

const words = (text: string): string[] => text.toLowerCase().match(/[a-z0-9]+/g) ?? [];

/** Length of the longest common subsequence. */
function longestCommon(a: readonly string[], b: readonly string[]): number {
  let row = new Uint32Array(b.length + 1);
  for (const word of a) {
    const next = new Uint32Array(b.length + 1);
    for (const [j, other] of b.entries()) next[j + 1] = word === other ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!);
    row = next;
  }
  return row[b.length]!;
}
