import type { HostTensor } from "../runtime/index.ts";

/** One batch: what the program is fed, and what it holds. */
export interface Batch {
  feeds: Readonly<Record<string, HostTensor>>;
  /** Tokens (or other positions) that the model reads, padding not counted. */
  tokens: number;
  examples: number;
  /** Where the batch comes from, for messages about it (`examples 17, 4, 256 of mail.jsonl`). */
  description: string;
}

/** Batches as a pure function of the step (from 0), so that a resumed run sees what an uninterrupted one would have seen. */
export interface BatchSource {
  readonly batchesPerEpoch: number;
  /** A promise where batches are made elsewhere (read from files, in a worker): the next one is asked for before the present one is used. */
  batch(step: number): Batch | Promise<Batch>;
}

/** A source whose batches are made on the spot. */
export interface ImmediateBatchSource extends BatchSource {
  batch(step: number): Batch;
}
