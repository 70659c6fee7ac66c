import { EspalierError } from "../../graph/index.ts";

/** Refuses lists that cannot be compared item by item. */
export function checkPairs(metric: string, first: readonly unknown[], second: readonly unknown[]): void {
  if (first.length !== second.length) {
    throw new EspalierError("length-mismatch", `${metric}: the lists must be equally long, but hold ${first.length} and ${second.length}.`);
  }
  if (first.length === 0) throw new EspalierError("no-examples", `${metric}: there is nothing to measure in an empty list.`);
}

/** How often each item occurs. */
export function counted<T>(items: Iterable<T>): Map<T, number> {
  const counts = new Map<T, number>();
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1);
  return counts;
}

/** Items that two multisets have in common. */
export function overlap<T>(a: ReadonlyMap<T, number>, b: ReadonlyMap<T, number>): number {
  let shared = 0;
  for (const [item, count] of a) shared += Math.min(count, b.get(item) ?? 0);
  return shared;
}

/** Runs of `n` neighbouring tokens, each as one string. */
export const ngrams = (tokens: readonly string[], n: number): string[] =>
  Array.from({ length: Math.max(0, tokens.length - n + 1) }, (_, i) => tokens.slice(i, i + n).join("\u0000"));
