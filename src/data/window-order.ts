import { EspalierError, Random } from "../graph/index.ts";

export interface WindowOrderOptions {
  seed: number;
  epoch: number;
  /** Records that are shuffled together. All of them, where there are no more. */
  window: number;
}

/** An order of records that are read in chunks. */
export interface WindowOrder {
  readonly length: number;
  /** The record at a place of the order. */
  at(position: number): number;
  /** The chunks that the records around a place come from. */
  chunksAt(position: number): readonly number[];
}

/**
 * An order of records in which few chunks are in use at a time, so that a file is read in pieces and once: the chunks are shuffled, as many as make
 * up a window are taken together, and the records of a window are shuffled. A function of (seed, epoch, window) alone.
 *
 * How random it is: with a window that holds all records every order is equally likely. With a smaller one, records of one chunk (neighbours in the
 * file) are never further apart than a window, and everything else is: a window draws its chunks from the whole file.
 * @param chunkSizes records of each chunk
 */
export function windowOrder(chunkSizes: ArrayLike<number>, { seed, epoch, window }: WindowOrderOptions): WindowOrder {
  if (!(window >= 1)) throw new EspalierError("data-window", `The shuffle window is a number of records, at least 1, not ${window}.`);
  const starts = prefixSums(chunkSizes);
  const length = starts[chunkSizes.length]!;
  const order = Uint32Array.from({ length: chunkSizes.length }, (_, chunk) => chunk);
  new Random(seed, epoch).shuffle(order);
  // Where each window begins, in the order of chunks and in the order of records.
  const windows: { chunk: number; position: number }[] = [];
  let [held, position] = [Number.POSITIVE_INFINITY, 0];
  for (const [i, chunk] of order.entries()) {
    if (held >= window) {
      windows.push({ chunk: i, position });
      held = 0;
    }
    held += chunkSizes[chunk]!;
    position += chunkSizes[chunk]!;
  }
  let latest: { window: number; records: Float64Array; chunks: Uint32Array } | undefined;
  const windowAt = (at: number) => {
    if (!(at >= 0 && at < length)) throw new RangeError(`There is no record ${at} of ${length}.`);
    const w = lastAtMost(windows, at);
    if (latest?.window === w) return latest;
    const end = windows[w + 1];
    const chunks = order.subarray(windows[w]!.chunk, end?.chunk ?? order.length);
    const records = new Float64Array((end?.position ?? length) - windows[w]!.position);
    let filled = 0;
    for (const chunk of chunks) for (let i = starts[chunk]!; i < starts[chunk + 1]!; i++) records[filled++] = i;
    latest = { window: w, records: new Random(seed, epoch, w).shuffle(records), chunks };
    return latest;
  };
  return {
    length,
    at(at) {
      const { window: w, records } = windowAt(at);
      return records[at - windows[w]!.position]!;
    },
    chunksAt: (at) => Array.from(windowAt(at).chunks),
  };
}

/** `[0, a, a + b, …]`. */
export function prefixSums(sizes: ArrayLike<number>): Float64Array {
  const sums = new Float64Array(sizes.length + 1);
  for (let i = 0; i < sizes.length; i++) sums[i + 1] = sums[i]! + sizes[i]!;
  return sums;
}

function lastAtMost(windows: readonly { position: number }[], at: number): number {
  let [low, high] = [0, windows.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (windows[middle]!.position <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}
