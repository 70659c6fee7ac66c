import { EspalierError } from "../../graph/index.ts";

/**
 * Of queries that each have right answers among the candidates: the share whose nearest candidate is right, and the mean of 1 / (rank of the first right
 * one). A candidate as near as the right one counts as nearer: a model that gives everything the same vector knows nothing.
 *
 * @param similarities for each query, one number per candidate
 * @param right for each query, the indices of the right candidates
 */
export function retrieval(
  similarities: readonly (readonly number[])[],
  right: readonly (readonly number[])[],
): { accuracy: number; meanReciprocalRank: number } {
  if (similarities.length === 0 || similarities.length !== right.length || right.some((indices) => indices.length === 0))
    throw new EspalierError("bad-metric", `retrieval needs a right candidate for each of its ${similarities.length} queries.`);
  const ranks = similarities.map((row, query) => {
    const best = Math.max(...right[query]!.map((index) => row[index]!));
    const isRight = new Set(right[query]!);
    return 1 + row.filter((value, index) => !isRight.has(index) && value >= best).length;
  });
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  return { accuracy: mean(ranks.map((rank) => (rank === 1 ? 1 : 0))), meanReciprocalRank: mean(ranks.map((rank) => 1 / rank)) };
}
