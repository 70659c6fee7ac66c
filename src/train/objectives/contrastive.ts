import { EspalierError, type Tensor } from "../../graph/index.ts";
import { modulesInChunks } from "../../nn/index.ts";
import {
  add,
  concat,
  crossEntropyPerTarget,
  div,
  hiddenScore,
  linear,
  maximum,
  mul,
  slice,
  sqrt,
  sum,
  sumOfSquares,
  transpose,
  where,
} from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

/** What turns texts into vectors: `ids` and `attentionMask` int64 [batch, time] → [batch, width]. */
export interface TextVectors {
  forward(inputs: { ids: Tensor; attentionMask?: Tensor | undefined }): Tensor;
}

export interface ContrastiveOptions {
  /** Factor on the cosines, 1/temperature. Default 20. */
  scale?: number;
  /** Whether anchors are chosen for positives, too; the loss is the mean of both. Default false. */
  symmetric?: boolean;
  /**
   * Texts that are encoded at one time. A larger batch is encoded in chunks, each once more when its gradient is computed: the same gradient in the memory
   * of one chunk, for the time of one more forward pass (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). Default:
   * the whole batch.
   */
  chunk?: number;
}

/**
 * Each anchor's positive is to be told from all the other candidates of the batch: the other anchors' positives and everybody's hard negatives (Henderson et
 * al., "Efficient Natural Language Response Suggestion for Smart Reply"; van den Oord et al., "Representation Learning with Contrastive Predictive Coding").
 *
 * Inputs: texts in columns, `ids0` and `attentionMask0` int64 [batch, time] the anchors, `ids1` … the positives, `ids2` … hard negatives, if any, each column
 * of a length of its own; `labels` int64 [batch], for each row its own number, or −100 for one that does not count; and where some candidates are no
 * negatives of an anchor, `excluded` bool [batch, candidates], true for those.
 *
 * @throws EspalierError `bad-option`
 */
export function contrastive(model: TextVectors, options: ContrastiveOptions = {}): Objective {
  const { scale = 20, symmetric = false, chunk } = options;
  if (!(scale > 0 && Number.isFinite(scale)))
    throw new EspalierError("bad-option", `contrastive: the scale must be a number above 0, not ${scale}.`);
  checkChunk(chunk);
  return {
    name: "contrastive",
    trace(inputs) {
      const [anchors, ...candidates] = columns(inputs).map((column) => direction(encoded(model, column, chunk)));
      if (!anchors || candidates.length === 0)
        throw new EspalierError("missing-input", "contrastive needs anchors and positives: the inputs ids0 and ids1, with their masks.");
      const { labels, excluded } = inputs;
      const batch = anchors.shape[0]!;
      const scores = mul(linear(anchors, candidates.length === 1 ? candidates[0]! : concat(candidates, 0)), scale);
      const seen = excluded ? where(excluded, hiddenScore, scores) : scores;
      const byAnchor = crossEntropyPerTarget(seen, labels!);
      const weight = sum(byAnchor.weights);
      if (!symmetric) return { total: sum(byAnchor.losses), weight };
      const byPositive = crossEntropyPerTarget(transpose(slice(seen, 1, 0, batch as number)), labels!);
      return { total: mul(add(sum(byAnchor.losses), sum(byPositive.losses)), 0.5), weight };
    },
  };
}

export function checkChunk(chunk: number | undefined): void {
  if (chunk === undefined || (Number.isInteger(chunk) && chunk >= 1)) return;
  throw new EspalierError("bad-option", `A chunk must be a whole number, at least 1, not ${chunk}.`);
}

type Column = { ids: Tensor; attentionMask: Tensor };

/** `ids0`, `attentionMask0`, `ids1`, … by column. */
export function columns(inputs: Readonly<Record<string, Tensor>>): Column[] {
  const found: Column[] = [];
  for (let i = 0; inputs[`ids${i}`]; i++) found.push({ ids: inputs[`ids${i}`]!, attentionMask: inputs[`attentionMask${i}`]! });
  return found;
}

/** The vectors of a column, [batch, width]. */
export const encoded = (model: TextVectors, column: Column, chunk: number | undefined): Tensor =>
  chunk === undefined
    ? model.forward(column)
    : modulesInChunks({ ...column }, chunk, ({ ids, attentionMask }) => [model.forward({ ids: ids!, attentionMask })])[0]!;

/** Scaled to length 1. */
export const direction = (x: Tensor): Tensor => div(x, maximum(sqrt(sumOfSquares(x, -1, { keepDims: true })), 1e-12));
