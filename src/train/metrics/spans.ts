import { type PrecisionRecallF1, ratios } from "./classification.ts";
import { checkPairs } from "./pairs.ts";

/** A stretch of tokens with one type; `end` is its last token. */
export interface Span {
  type: string;
  start: number;
  end: number;
}

const prefixed = /^([BIES])-(.*)$/s;

/** Whether labels mark spans: "O", and types with B-, I-, E- or S- before them. */
export const marksSpans = (labels: Iterable<string>): boolean => {
  const list = [...labels];
  return list.some((label) => prefixed.test(label)) && list.every((label) => label === "O" || prefixed.test(label));
};

/**
 * The spans of one sequence of BIO (or BIOES) labels, read as conlleval reads them (Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003
 * Shared Task"): a span also begins at an I- or E- that continues nothing, and ends where the type changes.
 */
export function spansOf(labels: readonly string[]): Span[] {
  const spans: Span[] = [];
  let open: Span | undefined;
  let closed = true;
  for (const [at, label] of labels.entries()) {
    const [, mark, type] = prefixed.exec(label) ?? [];
    if (mark === undefined) {
      open = undefined;
      continue;
    }
    const continues = open !== undefined && !closed && mark !== "B" && mark !== "S" && open.type === type;
    if (continues) open!.end = at;
    else {
      open = { type: type!, start: at, end: at };
      spans.push(open);
    }
    closed = mark === "E" || mark === "S";
  }
  return spans;
}

/** Precision, recall and F1 of whole spans over all sequences: one counts when its ends and its type are right. The same numbers as seqeval's. */
export function spanF1(predicted: readonly (readonly string[])[], actual: readonly (readonly string[])[]): PrecisionRecallF1 {
  checkPairs("spanF1", predicted, actual);
  let [hits, called, present] = [0, 0, 0];
  for (const [i, labels] of actual.entries()) {
    checkPairs(`spanF1, sequence ${i}`, predicted[i]!, labels);
    const key = ({ type, start, end }: Span) => `${start} ${end} ${type}`;
    const [found, there] = [spansOf(predicted[i]!), spansOf(labels)];
    const right = new Set(there.map(key));
    hits += found.filter((span) => right.has(key(span))).length;
    called += found.length;
    present += there.length;
  }
  return ratios(hits, called, present);
}
