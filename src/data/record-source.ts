import type { Weights } from "./mixture.ts";
import { Mixture, mixedEpoch } from "./mixture.ts";
import { prefixSums, type WindowOrder, windowOrder } from "./window-order.ts";

/** Records that are read in chunks. */
export interface RecordSource<R> {
  readonly length: number;
  /** Records of each chunk. */
  readonly chunkSizes: ArrayLike<number>;
  /** Bytes that all records take, if known. */
  readonly bytes?: number;
  /** Equal for equal records; absent where nobody knows. */
  readonly key?: string;
  /** Reads a chunk. */
  chunk(index: number): readonly R[];
}

/** Records of a list. */
export const recordsOf = <R>(records: readonly R[]): RecordSource<R> => ({
  length: records.length,
  chunkSizes: [records.length],
  chunk: () => records,
});

/** Records in the order in which they are trained on, without an end: a pure function of the place. */
export interface RecordStream<R> {
  readonly perEpoch: number;
  at(position: number): R;
}

export interface ShuffleOptions {
  seed?: number;
  /** Records that are shuffled together, see {@link windowOrder}. Default 16384, or as many as take 64 MiB, if these are fewer. */
  window?: number;
}

const defaultWindow = 16384;
const windowBytes = 2 ** 26;

/** The window of a source where nobody says another. */
export function windowOf({ length, bytes = 0 }: RecordSource<unknown>): number {
  const mean = bytes / Math.max(1, length);
  return Math.max(1, Math.min(defaultWindow, mean > 0 ? Math.floor(windowBytes / mean) : defaultWindow));
}

/** The records of a source, every epoch in another order; only the chunks of one window are in memory. */
export function shuffledRecords<R>(source: RecordSource<R>, { seed = 0, window = windowOf(source) }: ShuffleOptions = {}): RecordStream<R> {
  const starts = prefixSums(source.chunkSizes);
  const perEpoch = source.length;
  let latest: { epoch: number; order: WindowOrder } | undefined;
  let held = new Map<number, readonly R[]>();
  let keep: readonly number[] = [];
  return {
    perEpoch,
    at(position) {
      const epoch = Math.floor(position / perEpoch);
      if (latest?.epoch !== epoch) latest = { epoch, order: windowOrder(source.chunkSizes, { seed, epoch, window }) };
      const record = latest.order.at(position - epoch * perEpoch);
      const chunk = chunkOf(starts, record);
      let records = held.get(chunk);
      if (!records) {
        records = source.chunk(chunk);
        const chunks = latest.order.chunksAt(position - epoch * perEpoch);
        // Another window: what it does not need goes.
        if (chunks[0] !== keep[0] || chunks.length !== keep.length) held = new Map([...held].filter(([c]) => chunks.includes(c)));
        keep = chunks;
        held.set(chunk, records);
      }
      return records[record - starts[chunk]!]!;
    },
  };
}

function chunkOf(starts: Float64Array, record: number): number {
  let [low, high] = [0, starts.length - 2];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (starts[middle]! <= record) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Records of several streams, each drawn as often as the weights say (see {@link Mixture}); a stream that is through begins again in another order. */
export function mixedRecords<R>(
  streams: Readonly<Record<string, { stream: RecordStream<R>; weight?: number }>>,
  { seed = 0, weights, epoch = "all" }: { seed?: number; weights?: (draw: number) => Weights; epoch?: "first" | "all" } = {},
): RecordStream<R> & { sourceAt(position: number): string } {
  const names = Object.keys(streams);
  const mixture = new Mixture(names, weights ?? Object.fromEntries(names.map((name) => [name, streams[name]!.weight ?? 1])), seed);
  const lengths = names.map((name) => streams[name]!.stream.perEpoch);
  return {
    perEpoch: mixedEpoch(mixture.shares(0), lengths, epoch),
    at(position) {
      const { source, nth } = mixture.draw(position);
      return streams[names[source]!]!.stream.at(nth);
    },
    sourceAt: (position) => names[mixture.draw(position).source]!,
  };
}
