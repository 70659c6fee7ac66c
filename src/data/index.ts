/** The face of the room: examples to batches. Safe in a browser; what reads and keeps files is in `records.ts`. */
export * from "./batch-source.ts";
export { type ChooseBucketsOptions, type ChosenBuckets, chooseBuckets } from "./choose-buckets.ts";
export * from "./classification-batches.ts";
export * from "./conversation-batches.ts";
export type { Conversation } from "./conversations.ts";
export type { Example, ReadOptions } from "./examples.ts";
export type { ImageExample, ImageReadOptions } from "./image-examples.ts";
export * from "./language-batches.ts";
export { type MixedBatches, type MixOptions, Mixture, mixBatches, type Weights } from "./mixture.ts";
export { nearDuplicateGroups } from "./near-duplicates.ts";
export * from "./packed-batches.ts";
export { paddedBatches, paddedRows, paddingMaskRows } from "./padded-batches.ts";
export { type EncodedPreference, preferenceBatches } from "./preference-batches.ts";
export type { Preference } from "./preferences.ts";
export { ReadAhead } from "./read-ahead.ts";
export {
  mixedRecords,
  type RecordSource,
  type RecordStream,
  recordsOf,
  type ShuffleOptions,
  shuffledRecords,
} from "./record-source.ts";
export * from "./sequences.ts";
export * from "./split.ts";
export { type StreamedBatchOptions, streamedBatches } from "./streamed-batches.ts";
export { type EncodedPair, type PairBatchOptions, textPairBatches } from "./text-pair-batches.ts";
export type { TextPair } from "./text-pairs.ts";
export { type WindowOrder, type WindowOrderOptions, windowOrder } from "./window-order.ts";
