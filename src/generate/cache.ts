import { type HostTensor, hostTensor } from "../runtime/index.ts";

/** Room grows by this many tokens: a rare copy, few places computed in vain, and few shapes for ONNX Runtime to plan memory for. */
const block = 64;

/**
 * Keys and values of the tokens so far, per layer [batch, kvHeads, capacity, width]. The buffers belong to the host: ONNX Runtime reads them where
 * they are, and a step writes one new row per head; nothing else is copied, however long the past is.
 */
export class KeyValueCache {
  readonly #names: readonly string[];
  readonly #kvHeads: number;
  readonly #width: number;
  #batch: number;
  readonly #limit: number;
  #capacity = 0;
  #length = 0;
  #buffers: Float32Array[] = [];
  #feeds: Record<string, HostTensor> = {};

  /** `names` are the inputs that the buffers are fed as, in the order of {@link append}'s values; `limit` is the model's context. */
  constructor(names: readonly string[], shape: { batch: number; kvHeads: number; width: number; limit: number }) {
    this.#names = names;
    this.#batch = shape.batch;
    this.#kvHeads = shape.kvHeads;
    this.#width = shape.width;
    this.#limit = shape.limit;
  }

  /** Tokens held. */
  get length(): number {
    return this.#length;
  }

  /** The buffers, to be fed. Places from `length` on hold nothing yet. */
  get feeds(): Readonly<Record<string, HostTensor>> {
    return this.#feeds;
  }

  /** Takes the keys and values of `time` more tokens: [layer, key or value, batch, kvHeads, time, width]. */
  append(fresh: Float32Array, time: number): void {
    if (this.#length + time > this.#capacity) this.#grow(this.#length + time);
    const row = time * this.#width;
    let from = 0;
    for (const buffer of this.#buffers) {
      for (let plane = 0; plane < this.#planes; plane++, from += row) {
        buffer.set(fresh.subarray(from, from + row), (plane * this.#capacity + this.#length) * this.#width);
      }
    }
    this.#length += time;
  }

  /** Row `i` becomes what row `rows[i]` was: rows may be repeated, left out and added. */
  reorder(rows: readonly number[]): void {
    if (rows.length === this.#batch && rows.every((row, i) => row === i)) return;
    const row = this.#kvHeads * this.#capacity * this.#width;
    this.#buffers = this.#buffers.map((buffer) => {
      const reordered = new Float32Array(rows.length * row);
      for (const [to, from] of rows.entries()) reordered.set(buffer.subarray(from * row, (from + 1) * row), to * row);
      return reordered;
    });
    this.#batch = rows.length;
    this.#setFeeds();
  }

  /** Room for the first tokens, so that the inputs exist before there is one. */
  reserve(): void {
    if (this.#capacity === 0) this.#grow(0);
  }

  get #planes(): number {
    return this.#batch * this.#kvHeads;
  }

  #grow(needed: number): void {
    // One spare place at least, so that the next token needs no growth right away.
    const capacity = Math.min(Math.ceil((needed + 1) / block) * block, Math.max(this.#limit, needed));
    const held = this.#length * this.#width;
    this.#buffers = this.#names.map((_, i) => {
      const grown = new Float32Array(this.#planes * capacity * this.#width);
      for (let plane = 0; plane < this.#planes && held > 0; plane++) {
        const from = plane * this.#capacity * this.#width;
        grown.set(this.#buffers[i]!.subarray(from, from + held), plane * capacity * this.#width);
      }
      return grown;
    });
    this.#capacity = capacity;
    this.#setFeeds();
  }

  #setFeeds(): void {
    const shape = [this.#batch, this.#kvHeads, this.#capacity, this.#width];
    this.#feeds = Object.fromEntries(this.#names.map((name, i) => [name, hostTensor("float32", shape, this.#buffers[i]!)]));
  }
}
