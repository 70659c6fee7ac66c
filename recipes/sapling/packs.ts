import { readFileSync } from "node:fs";
import type { Batch, BatchSource } from "../../src/data/index.ts";
import { EspalierError, Random } from "../../src/graph/index.ts";
import { hostTensor } from "../../src/runtime/index.ts";

/** Token ids as the tokenizer step packed them: little-endian uint16. */
export function readPack(file: string): Uint16Array {
  try {
    const bytes = readFileSync(file);
    return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  } catch (cause) {
    throw new EspalierError(
      "no-pack",
      `${file} is missing: run "npx tsx recipes/sapling/corpus.ts" and "npx tsx recipes/sapling/tokenizer.ts" first.`,
      { cause },
    );
  }
}

/** Windows of `length` tokens and their next tokens, at the given places of the pack. */
export function windows(pack: Uint16Array, starts: readonly number[], length: number): Batch {
  const shape = [starts.length, length];
  const ids = new BigInt64Array(starts.length * length);
  const targets = new BigInt64Array(starts.length * length);
  for (const [row, start] of starts.entries()) {
    for (let t = 0; t < length; t++) {
      ids[row * length + t] = BigInt(pack[start + t]!);
      targets[row * length + t] = start + t + 1 < pack.length ? BigInt(pack[start + t + 1]!) : -100n;
    }
  }
  return {
    feeds: { ids: hostTensor("int64", shape, ids), targets: hostTensor("int64", shape, targets) },
    tokens: ids.length,
    examples: starts.length,
    description: `tokens at ${starts[0]} and ${starts.length - 1} other places`,
  };
}

/** Random windows; the batch is a function of the seed and the step alone. */
export function trainingWindows(
  pack: Uint16Array,
  seed: number,
  shapeAt: (step: number) => { batchSize: number; length: number },
): BatchSource {
  return {
    batchesPerEpoch: Number.POSITIVE_INFINITY,
    batch(step) {
      const { batchSize, length } = shapeAt(step);
      const random = new Random(seed, step);
      return windows(
        pack,
        Array.from({ length: batchSize }, () => random.integer(pack.length - length - 1)),
        length,
      );
    },
  };
}
