import { EspalierError } from "../../graph/index.ts";
import { checkPairs } from "./pairs.ts";

/**
 * Substitutions, deletions and insertions of words, as a share of the words that were said: 0 is perfect, and above 1 more is wrong than was said. Over
 * all texts together, as in jiwer. Words are what stands between blanks and line ends; case and
 * punctuation count.
 *
 * @throws EspalierError `no-reference` where nothing was said in any text
 */
export const wordErrorRate = (predicted: readonly string[], references: readonly string[]): number =>
  errorRate("wordErrorRate", predicted, references, (text) => text.split(/\s+/u).filter((word) => word !== ""));

/** {@link wordErrorRate} of characters, blanks between words included. */
export const characterErrorRate = (predicted: readonly string[], references: readonly string[]): number =>
  errorRate("characterErrorRate", predicted, references, (text) => [...text.trim()]);

function errorRate(metric: string, predicted: readonly string[], references: readonly string[], parts: (text: string) => string[]): number {
  checkPairs(metric, predicted, references);
  let [errors, total] = [0, 0];
  for (const [i, text] of references.entries()) {
    const said = parts(text);
    total += said.length;
    errors += editDistance(parts(predicted[i]!), said);
  }
  if (total === 0)
    throw new EspalierError("no-reference", `${metric}: nothing is said in any of the ${references.length} reference texts.`);
  return errors / total;
}

/** The fewest substitutions, deletions and insertions that make `a` into `b` (Levenshtein). */
function editDistance(a: readonly string[], b: readonly string[]): number {
  let row = Uint32Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, part] of a.entries()) {
    const next = new Uint32Array(b.length + 1);
    next[0] = i + 1;
    for (const [j, other] of b.entries()) next[j + 1] = Math.min(row[j]! + (part === other ? 0 : 1), row[j + 1]! + 1, next[j]! + 1);
    row = next;
  }
  return row[b.length]!;
}
