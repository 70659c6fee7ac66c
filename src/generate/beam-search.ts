import { z } from "zod";
import { EspalierError } from "../graph/index.ts";
import type { Continuation } from "./decoder.ts";
import { notFinite } from "./sampling.ts";

export interface BeamSearchOptions {
  /** Sequences kept at each step. Default 4. */
  beams?: number;
  /** Tokens of an answer at most, the end token included. Default 128. */
  maxNewTokens?: number;
  /** Tokens that end an answer. */
  endIds: Iterable<number>;
  /** A finished answer's score is its log probability / length^lengthPenalty: above 0 favours long answers. Default 1. */
  lengthPenalty?: number;
  /** Stop as soon as there are as many finished answers as beams, instead of when no open one is likely to become better. Default false. */
  earlyStopping?: boolean;
  signal?: AbortSignal | undefined;
}

const optionsSchema = z.looseObject({
  beams: z.int().positive().default(4),
  maxNewTokens: z.int().positive().default(128),
  lengthPenalty: z.number().default(1),
  earlyStopping: z.boolean().default(false),
});

export interface BeamResult {
  /** Tokens of the answer, the end token included where there is one. */
  ids: number[];
  /** Log probability / length^lengthPenalty. */
  score: number;
}

interface Beam {
  ids: number[];
  /** Log probability. */
  score: number;
}

/** The answers to one prompt. */
interface Search {
  open: Beam[];
  finished: BeamResult[];
  /** Whether an open beam may still become better than the worst finished answer. */
  improvable: boolean;
}

/**
 * Beam search over the answers to each prompt that `continuation` was started with; the numbers and the rule for stopping are those of transformers.
 * Returns up to `beams` answers per prompt, the best first.
 *
 * @throws EspalierError `bad-option`, `not-finite`
 */
export async function beamSearch(continuation: Continuation, options: BeamSearchOptions): Promise<BeamResult[][]> {
  const parsed = optionsSchema.safeParse(options);
  if (!parsed.success)
    throw new EspalierError("bad-option", `beamSearch: ${parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`).join("; ")}`);
  const { beams, maxNewTokens, lengthPenalty, earlyStopping } = parsed.data;
  const ends = new Set(options.endIds);
  const prompts = continuation.batch;
  // All beams of a prompt are the same at first: only one of them counts.
  const searches: Search[] = Array.from({ length: prompts }, () => ({
    open: Array.from({ length: beams }, (_, i) => ({ ids: [], score: i === 0 ? 0 : Number.NEGATIVE_INFINITY })),
    finished: [],
    improvable: true,
  }));
  continuation.reorder(searches.flatMap((_, prompt) => Array.from({ length: beams }, () => prompt)));
  for (let length = 1; ; length++) {
    const rows: number[] = [];
    let canGoOn = false;
    for (const [prompt, search] of searches.entries()) {
      const candidates = bestContinuations(continuation, search, prompt * beams, Math.max(2, 1 + ends.size) * beams);
      const ended = (c: Candidate) => ends.has(c.id) || length === maxNewTokens;
      const full = search.finished.length === beams;
      if (search.improvable && !(full && earlyStopping)) {
        const fresh = candidates.slice(0, beams).filter(ended);
        for (const { beam, id, score } of fresh)
          search.finished.push({ ids: [...search.open[beam]!.ids, id], score: score / length ** lengthPenalty });
        search.finished.sort((a, b) => b.score - a.score).splice(beams);
      }
      const next = candidates.filter((c) => !ended(c)).slice(0, beams);
      canGoOn ||= next.length > 0;
      // Where too few are left, the best one stands in for the others, which never count.
      const kept = Array.from({ length: beams }, (_, i) => next[i] ?? { beam: 0, id: candidates[0]!.id, score: Number.NEGATIVE_INFINITY });
      rows.push(...kept.map(({ beam }) => prompt * beams + beam));
      search.open = kept.map(({ beam, id, score }) => ({ ids: [...search.open[beam]!.ids, id], score }));
      const worst = search.finished.length === beams ? search.finished.at(-1)!.score : Number.NEGATIVE_INFINITY;
      search.improvable &&= search.open[0]!.score / length ** lengthPenalty > worst;
    }
    const done = searches.every(({ improvable }) => !improvable) || (earlyStopping && searches.every((s) => s.finished.length === beams));
    if (done || !canGoOn || options.signal?.aborted) break;
    continuation.reorder(rows);
    await continuation.push(searches.flatMap(({ open }) => open.map(({ ids }) => ids.at(-1)!)));
  }
  return searches.map(({ finished, open }) => (finished.length > 0 ? finished : open.filter(({ score }) => Number.isFinite(score))));
}

interface Candidate {
  /** The open beam that it continues. */
  beam: number;
  id: number;
  score: number;
}

/** The best `count` continuations of a prompt's open beams, the best first. */
function bestContinuations(continuation: Continuation, { open }: Search, firstRow: number, count: number): Candidate[] {
  const best: Candidate[] = [];
  for (const [beam, { score }] of open.entries()) {
    if (score === Number.NEGATIVE_INFINITY) continue;
    const logits = continuation.logits(firstRow + beam);
    const base = score - logSumExp(logits);
    if (!Number.isFinite(base)) throw notFinite(logits);
    for (let id = 0; id < logits.length; id++) {
      const total = base + logits[id]!;
      if (best.length === count && total <= best.at(-1)!.score) continue;
      let at = best.length;
      while (at > 0 && best[at - 1]!.score < total) at--;
      best.splice(at, 0, { beam, id, score: total });
      if (best.length > count) best.pop();
    }
  }
  return best;
}

function logSumExp(logits: Float32Array): number {
  const top = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return top + Math.log(logits.reduce((total, z) => total + Math.exp(z - top), 0));
}
