import { z } from "zod";
import { type TextPair, textPairBatches } from "../../data/index.ts";
import { isTextPair, readTextPairs } from "../../data/text-pairs.ts";
import { EspalierError, type Tensor } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import { loadSentenceEncoder } from "../../models/load-encoder.ts";
import type { SentenceEncoder } from "../../models/text-encoder.ts";
import { type Device, hostTensor, jit } from "../../runtime/index.ts";
import { retrieval, spearmanCorrelation } from "../metrics/index.ts";
import { contrastive, sentenceSimilarity as regression } from "../objectives/index.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, lengthBuckets, loadText, padIdOf } from "./loaded-text.ts";
import { SequenceEncoder, truncationNote } from "./sequence-encoder.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("sentence-similarity"),
  maxLength: z.int().positive(),
  scale: z.number().positive(),
  symmetric: z.boolean(),
  chunk: z.int().positive().optional(),
});
export type SimilarityRecord = z.output<typeof record>;

/** Vectors of sentences. */
export const sentenceSimilarity: TaskKind<TextPair, SimilarityRecord, LoadedText<SentenceEncoder>> = {
  name: "sentence-similarity",
  summary: "vectors of texts, near for texts that belong together",
  data: '{"anchor": "…", "positive": "…"} or {"text1": "…", "text2": "…", "score": 0.8}',
  needs: "sentenceEncoder",
  options: ["scale", "symmetric", "chunk"],
  record,
  recognises: ({ record }) => record !== undefined && isTextPair(record),
  read: (path) => readTextPairs(path),
  plan: ({ options: { maxLength = defaultLength, scale = 20, symmetric = false, chunk } }) => ({
    task: "sentence-similarity",
    maxLength,
    scale,
    symmetric,
    ...(chunk !== undefined && { chunk }),
  }),
  load: (directory) => loadText(directory, loadSentenceEncoder),
  task: ({ model, tokenizer }, data, record, device) => sentenceSimilarityTask(model, tokenizer, device, { ...data, ...record }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
};

export interface SimilarityTaskOptions extends TaskData<TextPair> {
  /** Tokens per text. */
  maxLength: number;
  /** See `ContrastiveOptions`. */
  scale?: number;
  symmetric?: boolean;
  chunk?: number | undefined;
}

/**
 * Pairs are learnt by contrast with the rest of their batch, and quality is stated as how often a held-out anchor finds its positive among all held-out
 * candidates first ("accuracy") and as the mean of 1/rank ("meanReciprocalRank"). Pairs with scores are learnt as they are, and quality is the rank
 * correlation of cosines and scores.
 *
 * @throws EspalierError `data-pairs` where training and held-out pairs are of different kinds
 */
export function sentenceSimilarityTask(model: SentenceEncoder, tokenizer: Tokenizer, device: Device, options: SimilarityTaskOptions): Task {
  const { batchSize, maxLength, seed, scale = 20, symmetric = false, chunk } = options;
  const encoder = new SequenceEncoder(tokenizer, { template: "{text}", maxLength });
  const prepare = (pairs: readonly TextPair[]) => {
    const texts = pairs.flatMap((pair) => pair.texts.map((text) => ({ text, description: `${pair.file}:${pair.line}` })));
    const { examples, truncation } = encoder.encode(texts, options.cache);
    let at = 0;
    const encoded = pairs.map(({ texts, score, file, line }) => ({
      texts: texts.map(() => examples[at++]!.ids),
      ...(score !== undefined && { score }),
      description: `${file}:${line}`,
    }));
    return { pairs: encoded, truncation };
  };
  const [trainSet, heldSet] = [prepare(options.train), prepare(options.heldOut)];
  const [first] = heldSet.pairs;
  const scored = (first ?? trainSet.pairs[0])?.score !== undefined;
  const other = trainSet.pairs.find((pair) => first && (pair.score !== undefined) !== scored);
  if (other) throw new EspalierError("data-pairs", `${other.description}: training and held-out pairs must all have scores, or none.`);
  const objective = scored ? regression(model, { chunk }) : contrastive(model, { scale, symmetric, ...(chunk !== undefined && { chunk }) });
  const padId = padIdOf(tokenizer);
  const buckets = lengthBuckets(maxLength);
  const program = jit(device, ({ ids, attentionMask }: Record<"ids" | "attentionMask", Tensor>) => ({
    vectors: model.forward({ ids, attentionMask }),
  }));
  /** A vector for each text. */
  const vectorsOf = async (texts: readonly (readonly number[])[], onProgress?: (done: number, of: number) => void) => {
    const vectors: Float32Array[] = new Array(texts.length);
    const rows = Math.min(16, texts.length);
    // Alike ones together, so that little is padding.
    const order = [...texts.keys()].sort((a, b) => texts[a]!.length - texts[b]!.length);
    for (let start = 0; start < order.length; start += rows) {
      const chosen = order.slice(start, start + rows);
      const length = buckets.find((bucket) => bucket >= texts[chosen.at(-1)!]!.length)!;
      const ids = new BigInt64Array(rows * length).fill(BigInt(padId));
      const mask = new BigInt64Array(rows * length);
      for (let row = 0; row < rows; row++)
        for (const [t, id] of texts[chosen[row] ?? chosen[0]!]!.entries()) {
          ids[row * length + t] = BigInt(id);
          mask[row * length + t] = 1n;
        }
      const shape = [rows, length];
      const out = await program({ ids: hostTensor("int64", shape, ids), attentionMask: hostTensor("int64", shape, mask) });
      const data = out.vectors.data as Float32Array;
      const width = data.length / rows;
      for (const [row, index] of chosen.entries()) vectors[index] = data.slice(row * width, (row + 1) * width);
      onProgress?.(Math.min(start + rows, order.length), order.length);
    }
    await program.dispose(); // see rowsOfLogits
    return vectors;
  };
  return {
    name: "sentence-similarity",
    model,
    objective,
    train: batchesOf(trainSet.pairs, (pairs) => textPairBatches(pairs, { batchSize, padId, buckets, seed })),
    notes: [
      `${trainSet.pairs.length} training and ${heldSet.pairs.length} held-out ${scored ? "pairs with scores" : `examples of ${(first ?? trainSet.pairs[0])?.texts.length} texts`}`,
      ...truncationNote("training", trainSet.truncation),
      ...truncationNote("held-out", heldSet.truncation),
    ],
    heldOutNotes: truncationNote("held-out", heldSet.truncation),
    metric: scored ? "spearman" : "accuracy",
    higherIsBetter: true,
    length: maxLength,
    record: { task: "sentence-similarity", maxLength, scale, symmetric, ...(chunk !== undefined && { chunk }) } satisfies SimilarityRecord,
    async evaluate(onProgress): Promise<Record<string, number>> {
      const { pairs } = heldSet;
      const columns = pairs[0]?.texts.length ?? 0;
      const vectors = await vectorsOf(Array.from({ length: columns }, (_, c) => pairs.map(({ texts }) => texts[c]!)).flat(), onProgress);
      const [anchors, others] = [vectors.slice(0, pairs.length), vectors.slice(pairs.length)];
      if (scored) {
        const cosines = anchors.map((anchor, i) => cosine(anchor, others[i]!));
        const scores = pairs.map(({ score }) => score!);
        const loss = cosines.reduce((sum, value, i) => sum + (value - scores[i]!) ** 2, 0) / pairs.length;
        return { loss, spearman: spearmanCorrelation(cosines, scores) };
      }
      const similarities = anchors.map((anchor) => others.map((candidate) => cosine(anchor, candidate)));
      const key = (ids: readonly number[]) => ids.join();
      const candidates = Array.from({ length: columns - 1 }, (_, c) => pairs.map(({ texts }) => key(texts[c + 1]!))).flat();
      // The same text elsewhere is as right.
      const right = pairs.map(({ texts }) => candidates.flatMap((text, i) => (text === key(texts[1]!) ? [i] : [])));
      const loss = similarities.reduce((sum, row, i) => sum + crossEntropy(row, i, scale), 0) / pairs.length;
      return { loss, ...retrieval(similarities, right) };
    },
    dispose: () => program.dispose(),
  };
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! * a[i]!;
    bb += b[i]! * b[i]!;
  }
  return ab / Math.max(Math.sqrt(aa * bb), 1e-12);
}

/** −log softmax(scale · row)[target]. */
function crossEntropy(row: readonly number[], target: number, scale: number): number {
  const top = Math.max(...row);
  return Math.log(row.reduce((sum, value) => sum + Math.exp(scale * (value - top)), 0)) - scale * (row[target]! - top);
}
