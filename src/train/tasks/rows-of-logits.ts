import type { BatchSource } from "../../data/index.ts";
import type { Evaluator } from "../evaluate.ts";

/** Batches that can say which examples stand in their rows; −1 for a row that fills up. */
export interface IndexedBatchSource extends BatchSource {
  indices(step: number): number[];
}

/** The logits of every example in the order of the examples, however batches mix them, and the mean loss of those that have a target, NaN where none has. */
export async function rowsOfLogits(
  evaluator: Evaluator,
  source: IndexedBatchSource,
  count: number,
  onProgress?: (done: number, of: number) => void,
): Promise<{ logits: Float32Array[]; loss: number }> {
  const logits: Float32Array[] = new Array(count);
  const { loss } = await evaluator.outputs(
    source,
    (step, outputs) => {
      const { data, shape } = outputs.logits!;
      const width = data.length / shape[0]!;
      for (const [row, index] of source.indices(step).entries())
        if (index >= 0) logits[index] = (data as Float32Array).slice(row * width, (row + 1) * width);
    },
    onProgress,
  );
  // The programs' memory would otherwise stand beside that of training; compiling them again takes a fraction of a second.
  await evaluator.dispose();
  return { logits, loss };
}

export const softmaxOf = (logits: Float32Array): number[] => {
  const top = Math.max(...logits);
  const exps = Array.from(logits, (z) => Math.exp(z - top));
  const total = exps.reduce((a, b) => a + b, 0);
  return exps.map((e) => e / total);
};

export const largestOf = (logits: ArrayLike<number>): number =>
  Array.from(logits).reduce((best, z, i, all) => (z > all[best]! ? i : best), 0);
