import type { ReadAhead } from "../data/index.ts";
import type { Traced } from "../graph/index.ts";
import { randomInputs } from "../nn/index.ts";
import { type Device, type HostTensor, hostTensor, type Jit, jitTraced } from "../runtime/index.ts";
import type { LossScaler } from "./loss-scaler.ts";
import { Accumulator, type StepOptions, type StepScalars, stepFeeds, traceStep } from "./step.ts";

export interface StepRunnerOptions extends StepOptions {
  device: Device;
  batches: ReadAhead;
  /** Batches per step. */
  accumulate: number;
  seed: number;
  /** A batch whose loss or gradients are not finite: the step ends with it and changes nothing, or goes on as if it had not been. */
  notFinite: "stop" | "skip";
  /** Where products are computed in float16. Gradients that overflow in it are for the scale to mend: they count neither as a failure nor as skipped. */
  lossScaler?: LossScaler | undefined;
}

/** What was not finite, and where. */
export interface Skipped {
  what: string;
  batch: string;
}

export interface StepOutcome {
  /** Mean over the targets of the batches that count; 0 when these have none, NaN when there is no such batch. */
  loss: number;
  gradientNorm: number;
  /** Tokens of the batches that count. */
  tokens: number;
  /** Whether weights and moments moved on. If not, they are as they were, bit for bit. */
  updated: boolean;
  /** Whether it was the scaled gradients that were not finite: the step changed nothing, and the next has a smaller scale. */
  overflowed: boolean;
  skipped: Skipped[];
  skippedBatches: number;
  milliseconds: StepMilliseconds & { compile: number };
  /** Whether no program was compiled on the way. */
  warm: boolean;
}

export interface StepMilliseconds {
  /** Waiting for batches. */
  data: number;
  /** Within ONNX Runtime. */
  session: number;
  /** All else between the beginning of the step and its end: feeds, scalars, methods. */
  rest: number;
}

/** The programs of a training step, compiled for each shape of a batch, and one step at a time with them. */
export class StepRunner {
  readonly #o: StepRunnerOptions;
  readonly #accumulator: Accumulator | undefined;
  readonly #program: Jit<string, string>;
  /** With accumulation, the update that follows the last batch. */
  readonly #update: Jit<string, string> | undefined;
  #compiled = 0;
  #compile = 0;

  constructor(options: StepRunnerOptions) {
    this.#o = options;
    const { device, accumulate } = options;
    const accumulator = accumulate > 1 ? new Accumulator(options) : undefined;
    const counted = (trace: () => Traced): Traced => {
      this.#compiled++;
      return trace();
    };
    this.#accumulator = accumulator;
    this.#program = jitTraced(device, (types) => counted(() => (accumulator ? accumulator.traceBatch(types) : traceStep(types, options))));
    this.#update = accumulator && jitTraced(device, () => counted(() => accumulator.traceUpdate()));
  }

  /** One step, from 1; `further` are inputs that methods add. */
  async run(step: number, scalarsOf: () => { scalars: StepScalars; further: Readonly<Record<string, HostTensor>> }): Promise<StepOutcome> {
    const { device, optimizer, accumulate, seed, batches, notFinite } = this.#o;
    const [began, sessionBefore, compiledBefore] = [performance.now(), device.sessionMilliseconds, this.#compiled];
    this.#compile = 0;
    const { scalars, further } = scalarsOf();
    const { lossScaler } = this.#o;
    const common = stepFeeds(optimizer, lossScaler ? { ...scalars, lossScale: lossScaler.scale } : scalars);
    let overflowed = false;
    let [total, weight, tokens, gradientNorm, counted, data] = [0, 0, 0, Number.NaN, 0, 0];
    let updated = false;
    const skipped: Skipped[] = [];
    const stopped = () => notFinite === "stop" && skipped.length > 0;
    const descriptions: string[] = [];
    for (let part = 0; part < accumulate && !stopped(); part++) {
      const index = (step - 1) * accumulate + part;
      const asked = performance.now();
      const batch = await batches.take(index);
      data += performance.now() - asked;
      const out = await this.#call(this.#program, { ...batch.feeds, ...further }, { ...common, ...randomFeeds(seed, index) });
      overflowed ||= out.overflow;
      if (!out.finite && !out.overflow) {
        skipped.push({ what: out.what, batch: batch.description });
        continue;
      }
      counted++;
      total += out.total;
      weight += out.weight;
      tokens += batch.tokens;
      descriptions.push(batch.description);
      if (!this.#update) [gradientNorm, updated] = [out.gradientNorm, out.accepted];
    }
    if (this.#update && counted > 0 && !stopped()) {
      const out = await this.#call(this.#update, {}, common, weight);
      [gradientNorm, updated] = [out.gradientNorm, out.accepted];
      if (!updated) this.#accumulator!.clear(device);
      overflowed = out.overflow;
      if (!out.finite && !out.overflow) {
        skipped.push({ what: out.what, batch: descriptions.join("; ") });
        [counted, tokens, total, weight] = [0, 0, Number.NaN, 1];
      }
    }
    if (overflowed || updated) lossScaler?.update(!overflowed);
    const [session, compile, all] = [device.sessionMilliseconds - sessionBefore, this.#compile, performance.now() - began];
    return {
      loss: counted === 0 ? Number.NaN : weight === 0 ? 0 : total / weight,
      gradientNorm,
      tokens,
      updated,
      overflowed,
      skipped,
      skippedBatches: accumulate - counted,
      milliseconds: { data, session, compile, rest: all - data - session - compile },
      warm: this.#compiled === compiledBefore,
    };
  }

  /**
   * Runs a program whose updates count only when its figures are finite and there was something to learn from: zero gradients for want of targets
   * would still let moments fade and weights decay.
   */
  async #call(
    program: Jit<string, string>,
    feeds: Readonly<Record<string, HostTensor>>,
    common: Readonly<Record<string, HostTensor>>,
    weightBefore = 0,
  ) {
    const [before, count] = [performance.now(), this.#compiled];
    await program.prepare(feeds);
    if (this.#compiled > count) this.#compile += performance.now() - before;
    let accepted = true;
    let figures = { total: 0, weight: 0, gradientNorm: Number.NaN, what: "", finite: true };
    await program(feeds, common, (out) => {
      const figure = (name: string) => (out[name] ? Number(out[name].data[0]) : undefined);
      const [total = 0, weight = weightBefore, norm] = [figure("total"), figure("weight"), figure("gradientNorm")];
      const loss = total / (weight || 1);
      const what = Number.isFinite(loss)
        ? norm === undefined || Number.isFinite(norm)
          ? ""
          : `gradient norm became ${norm}`
        : `loss became ${loss}`;
      figures = { total, weight, gradientNorm: norm ?? Number.NaN, what, finite: what === "" };
      accepted = what === "" && !(weight === 0 && norm === 0);
      return accepted;
    });
    // At the smallest scale it is no longer the scale.
    const overflow = !figures.finite && Number.isFinite(figures.total) && this.#o.lossScaler?.canShrink === true;
    return { ...figures, accepted, overflow };
  }

  async dispose(): Promise<void> {
    await this.#program.dispose();
    await this.#update?.dispose();
  }
}

/** Inputs of the counter-based random numbers; a program without any ignores them. */
function randomFeeds(seed: number, step: number): Record<string, HostTensor> {
  return {
    [randomInputs.seed]: hostTensor("int32", [], Int32Array.of(seed | 0)),
    [randomInputs.step]: hostTensor("int32", [], Int32Array.of(step)),
  };
}
