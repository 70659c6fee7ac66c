/** Tasks whose training data are not in memory. */
import {
  type Batch,
  type BatchSource,
  type Example,
  mixedRecords,
  type RecordSource,
  shuffledRecords,
  streamedBatches,
} from "../../data/index.ts";
import type { OpenOptions, OpenRecords, TokenCacheOptions } from "../../data/records.ts";
import type { Loaded, TaskOptions } from "./kind.ts";
import { trainingBuckets } from "./loaded-text.ts";
import type { Task, TaskData } from "./task.ts";

/** Training data that are read when their batch is due. */
export interface StreamedTraining<E extends Example = Example> extends Pick<TaskData, "batchSize" | "seed" | "buckets" | "maxShapes"> {
  /** By name. Without weights each is drawn from according to its size. */
  sources: Readonly<Record<string, { records: RecordSource<E>; weight: number | undefined }>>;
  /** How many of the training examples have each label. */
  labels: ReadonlyMap<string, number>;
  heldOut: readonly E[];
  /** Records that are shuffled together, see `shuffledRecords`. */
  window?: number;
  cache: TokenCacheOptions;
}

/** What a task learns from, in the place of what it would make of examples in memory. */
export interface StreamedPart extends Pick<Task, "train" | "notes" | "majority"> {
  close?(): void;
}

/** How the training data of a task are opened and made into batches. */
export interface Streaming<E extends Example, R, L extends Loaded> {
  open(path: string, options: TaskOptions & OpenOptions): Promise<OpenRecords<E>>;
  train(loaded: L, data: StreamedTraining<E>, record: R): Promise<StreamedPart>;
}

/** So many records show how long the others are. */
const sampled = 1024;

/** Batches of texts that are tokenised as they are due, of all sources mixed. */
export function streamedTexts<E extends Example, X extends { ids: readonly number[]; description: string }>(
  data: StreamedTraining<E>,
  { maxLength, encode, assemble }: { maxLength: number; encode(record: E): X; assemble(examples: readonly X[], length: number): Batch },
): { train: BatchSource; notes: string[] } {
  const { batchSize, seed, window } = data;
  const stream = mixedRecords(
    Object.fromEntries(
      Object.entries(data.sources).map(([name, { records, weight = records.length }]) => [
        name,
        { stream: shuffledRecords(records, { seed, ...(window !== undefined && { window }) }), weight },
      ]),
    ),
    { seed },
  );
  const auto = data.buckets === "auto";
  const first = auto ? Array.from({ length: Math.min(sampled, stream.perEpoch) }, (_, i) => encode(stream.at(i)).ids.length) : [maxLength];
  const { buckets, notes } = trainingBuckets(first, maxLength, data);
  const train = streamedBatches(stream, {
    batchSize,
    buckets: buckets.at(-1)! < maxLength ? [...buckets, maxLength] : buckets,
    seed,
    size: ({ text }) => text.length,
    encode,
    assemble,
  });
  const cut = `texts are read and tokenised as they are due; what is longer than ${maxLength} tokens loses its end`;
  return { train, notes: [cut, ...notes.map((note) => `${note} (judged by the first ${first.length} records)`)] };
}
