import { EspalierError, Random } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import type { ImmediateBatchSource } from "./batch-source.ts";

/** Token ids that are looked at a piece at a time: a typed array, or a file. */
export interface TokenSequence {
  readonly length: number;
  subarray(start: number, end: number): ArrayLike<number>;
}

export interface LanguageBatchOptions {
  batchSize: number;
  /** Tokens per window. */
  sequenceLength: number;
  seed?: number;
  /** True unless told. */
  shuffle?: boolean;
}

/**
 * Batches of contiguous windows of a token stream: `ids` and `targets`, int64 [batch, time], each target the token after its id.
 *
 * Every token but the first is a target exactly once per epoch. All batches have one shape; what the last window and the last batch lack
 * is filled with id 0 and target −100, which does not count. The order is a function of (seed, epoch) alone.
 */
export function languageBatches(tokens: TokenSequence, options: LanguageBatchOptions): ImmediateBatchSource {
  const { batchSize, sequenceLength, seed = 0, shuffle = true } = options;
  for (const [name, value] of Object.entries({ "batch size": batchSize, "sequence length": sequenceLength })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new EspalierError("data-batches", `The ${name} is a whole number, at least 1, not ${value}.`);
    }
  }
  if (tokens.length < 2) {
    const found = tokens.length === 0 ? "no tokens" : "1 token";
    throw new EspalierError("data-batches", `The text has ${found}, but next-token prediction needs at least 2. Give a longer text.`);
  }
  const targetCount = tokens.length - 1;
  const windowCount = Math.ceil(targetCount / sequenceLength);
  const batchesPerEpoch = Math.ceil(windowCount / batchSize);

  const orderOf = (epoch: number) => {
    const order = Uint32Array.from({ length: windowCount }, (_, index) => index);
    return shuffle ? new Random(seed, epoch).shuffle(order) : order;
  };
  // Steps come in order, so the order of one epoch is enough to remember.
  let latest = { epoch: 0, order: orderOf(0) };

  return {
    batchesPerEpoch,
    batch(step) {
      const epoch = Math.floor(step / batchesPerEpoch);
      if (epoch !== latest.epoch) latest = { epoch, order: orderOf(epoch) };
      const first = (step - epoch * batchesPerEpoch) * batchSize;
      const starts = Array.from(latest.order.subarray(first, first + batchSize), (window) => window * sequenceLength);
      const ids = new BigInt64Array(batchSize * sequenceLength);
      const targets = new BigInt64Array(batchSize * sequenceLength).fill(-100n);
      let count = 0;
      for (const [row, start] of starts.entries()) {
        const length = Math.min(sequenceLength, targetCount - start);
        const own = tokens.subarray(start, start + length + 1);
        for (let t = 0; t < length; t++) {
          ids[row * sequenceLength + t] = BigInt(own[t]!);
          targets[row * sequenceLength + t] = BigInt(own[t + 1]!);
        }
        count += length;
      }
      const shape = [batchSize, sequenceLength];
      return {
        feeds: { ids: hostTensor("int64", shape, ids), targets: hostTensor("int64", shape, targets) },
        tokens: count,
        examples: starts.length,
        description: `windows of ${sequenceLength} tokens at ${starts.join(", ")}`,
      };
    },
  };
}
