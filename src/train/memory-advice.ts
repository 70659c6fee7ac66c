import { EspalierError } from "../graph/index.ts";

/** What a run that does not fit may change, what costs least first. */
const advice =
  "Lower the batch size and raise the batches per step by the same factor (--batch-size, --accumulate: the same update), shorten the sequences (--max-length), keep a frozen base in int8 or int4 (--base-dtype), or train fewer parameters (--rank); espalier inspect estimates what a step needs.";

/** An error of memory with what can be done about it; any other error as it is. */
export const withMemoryAdvice = (error: unknown): unknown =>
  error instanceof EspalierError && error.code === "out-of-memory"
    ? new EspalierError("out-of-memory", `${error.message} ${advice}`, { cause: error })
    : error;
