import { EspalierError } from "../../graph/index.ts";
import { mul, sub, sum } from "../../ops/index.ts";
import { type ContrastiveOptions, checkChunk, columns, direction, encoded, type TextVectors } from "./contrastive.ts";
import type { Objective } from "./objective.ts";

/**
 * The cosine of two texts' vectors is to be their score: the mean of the squared differences (Reimers and Gurevych, "Sentence-BERT").
 *
 * Inputs: `ids0`, `attentionMask0`, `ids1`, `attentionMask1` int64 [batch, time]; `scores` and `weights` float32 [batch], weight 0 for a row that does not count.
 *
 * @throws EspalierError `bad-option`
 */
export function sentenceSimilarity(model: TextVectors, { chunk }: Pick<ContrastiveOptions, "chunk"> = {}): Objective {
  checkChunk(chunk);
  return {
    name: "sentence-similarity",
    trace(inputs) {
      const [a, b] = columns(inputs).map((column) => direction(encoded(model, column, chunk)));
      const { scores, weights } = inputs;
      if (!a || !b || !scores || !weights)
        throw new EspalierError("missing-input", "sentenceSimilarity needs ids0 and ids1 with their masks, scores and weights.");
      const error = sub(sum(mul(a, b), -1), scores);
      return { total: sum(mul(weights, mul(error, error))), weight: sum(weights) };
    },
  };
}
