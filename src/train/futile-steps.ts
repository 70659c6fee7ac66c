import { EspalierError } from "../graph/index.ts";
import type { TrainerState } from "./checkpoint.ts";
import type { StepOutcome } from "./step-runner.ts";
import type { TrainOptions } from "./train-options.ts";

/** Of a step of which something was not finite, or that had no target. */
export interface FutileStep {
  step: number;
  outcome: StepOutcome;
  state: TrainerState;
  /** The newest checkpoint of the run. */
  checkpoint: string | undefined;
}

/** Batches from which nothing is learned: they are told of, counted in the state, and stop the run where they are too many. */
export class FutileSteps {
  readonly #o: TrainOptions;
  readonly #notice: (message: string) => void;
  readonly #batchesPerEpoch: number;
  /** Batches that were left out because they were not finite. */
  skipped = 0;

  constructor(options: TrainOptions, batchesPerEpoch: number, notice: (message: string) => void) {
    this.#o = options;
    this.#batchesPerEpoch = batchesPerEpoch;
    this.#notice = notice;
  }

  /** @throws EspalierError `not-finite` or `no-targets` where the run must not go on */
  check(at: FutileStep): void {
    const { skipped, updated, overflowed } = at.outcome;
    if (skipped.length > 0) this.#skip(at);
    else if (!updated && !overflowed) this.#targetless(at);
  }

  /** Stops the run, or says what was left out. */
  #skip({ step, outcome: { skipped, updated }, state, checkpoint }: FutileStep): void {
    const { notFinite = "stop", skipLimit = 10 } = this.#o;
    const [{ what, batch }] = skipped as [{ what: string; batch: string }];
    const last = checkpoint ? `The last finite checkpoint is ${checkpoint}.` : "No checkpoint was written before.";
    const advice = "Lower the learning rate, lengthen the warm-up, or look at that batch.";
    if (notFinite === "stop") throw new EspalierError("not-finite", `Step ${step}: the ${what} on ${batch}. ${last} ${advice}`);
    this.skipped += skipped.length;
    for (const { what, batch } of skipped) this.#notice(`Step ${step}: the ${what} on ${batch}, which is skipped.`);
    if (updated) return;
    state.skippedInRow++;
    if (state.skippedInRow >= skipLimit)
      throw new EspalierError(
        "not-finite",
        `Step ${step}: the ${what} on ${batch}, and ${state.skippedInRow} steps in a row were skipped for such reasons: it is not single batches. ${last} ${advice}`,
      );
  }

  /** Nothing is learned from batches whose targets are all ignored; where all are so, the data were not meant like this. */
  #targetless({ step, state }: FutileStep): void {
    if (state.targetlessInRow === 0)
      this.#notice(`Step ${step}: its batch has no target that counts (all are padding or ignored), so nothing is learned from it.`);
    state.targetlessInRow += this.#o.accumulate ?? 1;
    if (state.targetlessInRow >= Math.max(2, this.#batchesPerEpoch))
      throw new EspalierError(
        "no-targets",
        `Not one target in ${state.targetlessInRow} batches counts, and an epoch has ${this.#batchesPerEpoch}: all are padding or ignored (-100). Look at the labels, at what is masked, and at what truncation leaves of the sequences.`,
      );
  }
}
