import type { Batch, BatchSource } from "./batch-source.ts";

/** Batches in order, each asked for one ahead of its use: a source that works elsewhere does so while the present batch is computed with. */
export class ReadAhead {
  readonly #source: BatchSource;
  /** Batches from this one on are never asked for. */
  readonly #end: number;
  #next: { index: number; batch: Promise<Batch> } | undefined;

  constructor(source: BatchSource, end: number) {
    this.#source = source;
    this.#end = end;
  }

  /** The batch of this index, from 0. An error in making it is thrown here, not a batch earlier. */
  async take(index: number): Promise<Batch> {
    const batch = await (this.#next?.index === index ? this.#next.batch : this.#ask(index));
    this.#next = index + 1 < this.#end ? { index: index + 1, batch: this.#ask(index + 1) } : undefined;
    return batch;
  }

  #ask(index: number): Promise<Batch> {
    const batch = (async () => this.#source.batch(index))();
    batch.catch(() => undefined); // it is told of when it is taken
    return batch;
  }
}
