import type { BatchSource, preferenceBatches } from "../../data/index.ts";
import { withoutAdapters } from "../../nn/index.ts";
import { type Device, hostTensor, type Jit, jit } from "../../runtime/index.ts";
import { checkReference, completionLogProbabilities } from "../objectives/direct-preference.ts";

/**
 * Log-probabilities under the model without its adapters, computed when a pair is first seen and remembered: from the second epoch on a step is spared the
 * reference's forward pass. They do not depend on what is trained, so a resumed run finds the same ones.
 */
export class ReferenceCache {
  readonly #model: Parameters<typeof completionLogProbabilities>[0];
  readonly #program: Jit<string, string>;

  constructor(model: Parameters<typeof completionLogProbabilities>[0], device: Device) {
    this.#model = model;
    const objective = completionLogProbabilities(model);
    this.#program = jit(device, (inputs) => ({ ...withoutAdapters(() => objective.trace(inputs)).outputs }));
  }

  /**
   * The same batches with the input `reference`, float32 [2 · batchSize].
   * @throws EspalierError `no-reference` with the first batch, where the model itself is trained
   */
  feeding(source: ReturnType<typeof preferenceBatches>, batchSize: number): BatchSource {
    const known = new Map<number, readonly [chosen: number, rejected: number]>();
    return {
      batchesPerEpoch: source.batchesPerEpoch,
      batch: async (step) => {
        const batch = source.batch(step);
        const indices = source.indices(step);
        if (indices.some((index) => !known.has(index))) {
          checkReference(this.#model);
          const { ids, targets } = batch.feeds as Record<"ids" | "targets", ReturnType<typeof hostTensor>>;
          const { data } = (await this.#program({ ids, targets })).logProbabilities!;
          for (const [row, index] of indices.entries()) known.set(index, [Number(data[row]), Number(data[batchSize + row])]);
        }
        const reference = new Float32Array(2 * batchSize);
        for (const [row, index] of indices.entries()) [reference[row], reference[batchSize + row]] = known.get(index)!;
        return { ...batch, feeds: { ...batch.feeds, reference: hostTensor("float32", [2 * batchSize], reference) } };
      },
    };
  }

  dispose(): Promise<void> {
    return this.#program.dispose();
  }
}
