import { type BatchSource, ReadAhead } from "../data/index.ts";
import { EspalierError } from "../graph/index.ts";
import { computingIn } from "../ops/index.ts";
import type { Device, HostTensor } from "../runtime/index.ts";
import { type Jit, jit } from "../runtime/index.ts";
import type { Objective } from "./objectives/index.ts";
import { traceObjective } from "./objectives/packed-rows.ts";

export interface Evaluation {
  /** Σ total / Σ weight over the whole source, in nats for a cross-entropy. */
  loss: number;
  weight: number;
}

type Visit = (step: number, outputs: Record<string, HostTensor>) => void;

/** A program that evaluates an objective without training; it reads the variables' present values. */
export class Evaluator {
  readonly #program: Jit<string, string>;

  constructor(device: Device, objective: Objective) {
    this.#program = jit(device, (inputs) => {
      const { total, weight, outputs } = computingIn(device.compute, () => traceObjective(objective, inputs));
      return { total, weight, ...outputs };
    });
  }

  /**
   * Runs over one epoch of `source`; `visit` sees each batch's further outputs.
   * @throws EspalierError "empty-data" where the source has no batch, "no-targets" where no target counts
   */
  async run(source: BatchSource, visit?: Visit, onProgress?: (done: number, of: number) => void): Promise<Evaluation> {
    if (!(source.batchesPerEpoch >= 1))
      throw new EspalierError(
        "empty-data",
        "Evaluator: the data have no batch, so there is nothing to measure. Give at least one example.",
      );
    const evaluation = await this.outputs(source, visit, onProgress);
    if (evaluation.weight === 0)
      throw new EspalierError(
        "no-targets",
        `Evaluator: not one target in ${source.batchesPerEpoch} batches counts: all are padding or ignored (-100). Look at the labels, at what is masked, and at what truncation leaves of the sequences.`,
      );
    return evaluation;
  }

  /** As {@link run}, also for examples without targets, of which only the outputs are wanted: then the loss is NaN. */
  async outputs(source: BatchSource, visit?: Visit, onProgress?: (done: number, of: number) => void): Promise<Evaluation> {
    let total = 0;
    let weight = 0;
    const batches = new ReadAhead(source, source.batchesPerEpoch);
    for (let step = 0; step < source.batchesPerEpoch; step++) {
      const out = await this.#program((await batches.take(step)).feeds);
      total += Number(out.total!.data[0]);
      weight += Number(out.weight!.data[0]);
      visit?.(step, out);
      onProgress?.(step + 1, source.batchesPerEpoch);
    }
    return { loss: weight === 0 ? Number.NaN : total / weight, weight };
  }

  dispose(): Promise<void> {
    return this.#program.dispose();
  }
}
