import type { PackedBatchSource } from "../../data/index.ts";

/** How full packed rows are, for the notes of a task. */
export const packingNote = (examples: number, { rows, padding }: PackedBatchSource, sequenceLength: number): string =>
  `${examples} training examples share ${rows} rows of ${sequenceLength} tokens; ${(100 * padding).toFixed(1)} % of an epoch's places are padding`;
