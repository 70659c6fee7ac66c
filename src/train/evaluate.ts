import { type BatchSource, ReadAhead } from "../data/index.ts";
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

/** A program that evaluates an objective without training; it reads the variables' present values. */
export class Evaluator {
  readonly #program: Jit<string, string>;

  constructor(device: Device, objective: Objective) {
    this.#program = jit(device, (inputs) => {
      const { total, weight, outputs } = computingIn(device.compute, () => traceObjective(objective, inputs));
      return { total, weight, ...outputs };
    });
  }

  /** Runs over one epoch of `source`; `visit` sees each batch's further outputs. */
  async run(
    source: BatchSource,
    visit?: (step: number, outputs: Record<string, HostTensor>) => void,
    onProgress?: (done: number, of: number) => void,
  ): Promise<Evaluation> {
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
