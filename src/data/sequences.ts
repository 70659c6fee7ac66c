import { EspalierError } from "../graph/index.ts";

/** A text as token ids, with the index of its label. */
export interface EncodedExample {
  ids: readonly number[];
  label?: number;
  /** Where it comes from, for messages (`mail.jsonl line 17`). */
  description: string;
}

/** What is read and what is to be said next, token by token. */
export interface NextTokenExample {
  ids: readonly number[];
  /** For every id the one after it where it is to be learnt, else −100. */
  targets: readonly number[];
  description: string;
}

/** What was cut, to be told to the user. */
export interface Truncation {
  count: number;
  of: number;
  /** Tokens of the longest example before the cut. */
  longest: number;
  limit: number;
}

/** Cuts examples to `limit` tokens, keeping their head or their tail. Whoever calls prints the count: nothing is cut silently. */
export function truncate(
  examples: EncodedExample[],
  limit: number,
  keep: "head" | "tail" = "head",
): { examples: EncodedExample[]; truncation: Truncation } {
  if (!Number.isInteger(limit) || limit < 1) {
    throw new EspalierError("data-limit", `Sequences are cut to a whole number of tokens, at least 1, not ${limit}.`);
  }
  const truncation: Truncation = { count: 0, of: examples.length, longest: 0, limit };
  const cut = examples.map((example) => {
    const { ids } = example;
    truncation.longest = Math.max(truncation.longest, ids.length);
    if (ids.length <= limit) return example;
    truncation.count++;
    return { ...example, ids: keep === "head" ? ids.slice(0, limit) : ids.slice(ids.length - limit) };
  });
  return { examples: cut, truncation };
}
