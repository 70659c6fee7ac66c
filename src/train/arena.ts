/** Bytes of the first region; each further one is twice as large, up to {@link largestRegion}, or as large as the value that needs it. */
const firstRegion = 2 ** 20;
const largestRegion = 2 ** 30;
/** Sizes are multiples of this. */
const unit = 256;
/** A free chunk that is larger than its value by less than its value's size and this is not split. */
const largestRemainder = 2 ** 27;
/** Memory becomes resident in pages; counted in blocks of some. */
const block = 2 ** 16;

interface Chunk {
  readonly region: Region;
  offset: number;
  size: number;
  free: boolean;
  before: Chunk | undefined;
  after: Chunk | undefined;
}

/** What one call of the operating system gave. */
class Region {
  readonly index: number;
  readonly touched: Uint8Array;

  constructor(index: number, size: number) {
    this.index = index;
    this.touched = new Uint8Array(Math.ceil(size / block));
  }
}

/**
 * The arena in which ONNX Runtime keeps the intermediate values of a session: best fit with coalescing, in regions of twice the size each. Nothing goes back to the
 * operating system while the session lives, so what counts is the memory that was ever written to: more than the values that exist at one time,
 * because freed pieces do not always fit what comes next.
 */
export class Arena {
  readonly #free = new Set<Chunk>();
  #nextRegion = firstRegion;
  #regions = 0;
  #touchedBlocks = 0;

  /** Bytes that were written to at any time. */
  get residentBytes(): number {
    return this.#touchedBlocks * block;
  }

  allocate(bytes: number): Chunk {
    const size = Math.ceil(Math.max(bytes, 1) / unit) * unit;
    const chunk = this.#fitting(size) ?? this.#extended(size);
    this.#free.delete(chunk);
    chunk.free = false;
    if (chunk.size >= 2 * size || chunk.size - size >= largestRemainder) this.#split(chunk, size);
    this.#touch(chunk, bytes);
    return chunk;
  }

  release(chunk: Chunk): void {
    chunk.free = true;
    this.#free.add(chunk);
    if (chunk.after?.free) this.#join(chunk, chunk.after);
    if (chunk.before?.free) this.#join(chunk.before, chunk);
  }

  /** The smallest that fits; of several, the one that lies first. */
  #fitting(size: number): Chunk | undefined {
    let best: Chunk | undefined;
    for (const chunk of this.#free) if (chunk.size >= size && (!best || isBetter(chunk, best))) best = chunk;
    return best;
  }

  #extended(size: number): Chunk {
    let grown = false;
    while (size > this.#nextRegion) {
      this.#nextRegion *= 2;
      grown = true;
    }
    const bytes = this.#nextRegion;
    if (!grown) this.#nextRegion = Math.min(this.#nextRegion * 2, Math.max(largestRegion, bytes));
    const region = new Region(this.#regions++, bytes);
    return { region, offset: 0, size: bytes, free: true, before: undefined, after: undefined };
  }

  #split(chunk: Chunk, size: number): void {
    const { region, offset, after } = chunk;
    const rest: Chunk = { region, offset: offset + size, size: chunk.size - size, free: true, before: chunk, after };
    if (after) after.before = rest;
    chunk.after = rest;
    chunk.size = size;
    this.#free.add(rest);
  }

  #join(first: Chunk, second: Chunk): void {
    this.#free.delete(second);
    first.size += second.size;
    first.after = second.after;
    if (second.after) second.after.before = first;
  }

  #touch({ region: { touched }, offset }: Chunk, bytes: number): void {
    const end = Math.ceil((offset + bytes) / block);
    for (let i = Math.floor(offset / block); i < end; i++) {
      if (touched[i]) continue;
      touched[i] = 1;
      this.#touchedBlocks++;
    }
  }
}

export type { Chunk };

const isBetter = (a: Chunk, b: Chunk): boolean => {
  if (a.size !== b.size) return a.size < b.size;
  return a.region === b.region ? a.offset < b.offset : a.region.index < b.region.index;
};
