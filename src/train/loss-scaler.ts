import { EspalierError } from "../graph/index.ts";

export interface LossScalerOptions {
  /** The first factor. Default 2¹⁶. */
  initial?: number;
  /** Steps without an overflow after which the factor is doubled. Default 2000. */
  growthInterval?: number;
}

/** What a checkpoint keeps of a {@link LossScaler}. */
export interface LossScalerState {
  scale: number;
  goodSteps: number;
}

const [smallest, largest] = [2 ** -24, 2 ** 64];

/**
 * The factor on the loss with which gradients in float16 neither vanish nor overflow (Micikevicius et al., "Mixed Precision Training"): halved after a
 * step whose gradients were not finite, and which therefore changed nothing; doubled after many that were. Gradients are divided by it again before
 * anything is done with them; it is a power of two, so that costs no digit.
 */
export class LossScaler {
  readonly #growthInterval: number;
  #scale: number;
  #goodSteps = 0;

  constructor({ initial = 2 ** 16, growthInterval = 2000 }: LossScalerOptions = {}) {
    if (!isScale(initial))
      throw new EspalierError("bad-option", `The loss is scaled by a power of two from 2^-24 to 2^64, not by ${initial}.`);
    if (!Number.isInteger(growthInterval) || growthInterval < 1)
      throw new EspalierError("bad-option", `The loss scale grows after a whole number of steps, at least 1, not ${growthInterval}.`);
    this.#scale = initial;
    this.#growthInterval = growthInterval;
  }

  get scale(): number {
    return this.#scale;
  }

  get canShrink(): boolean {
    return this.#scale > smallest;
  }

  /** Tells how a step went, before the next one. */
  update(finite: boolean): void {
    this.#goodSteps = finite ? this.#goodSteps + 1 : 0;
    if (!finite) this.#scale = Math.max(smallest, this.#scale / 2);
    else if (this.#goodSteps === this.#growthInterval) {
      this.#scale = Math.min(largest, this.#scale * 2);
      this.#goodSteps = 0;
    }
  }

  state(): LossScalerState {
    return { scale: this.#scale, goodSteps: this.#goodSteps };
  }

  restore({ scale, goodSteps }: LossScalerState): void {
    if (!isScale(scale) || !Number.isInteger(goodSteps) || goodSteps < 0)
      throw new EspalierError(
        "checkpoint-mismatch",
        `The checkpoint holds no state of a loss scale: scale ${scale}, goodSteps ${goodSteps}.`,
      );
    this.#scale = scale;
    this.#goodSteps = goodSteps % this.#growthInterval;
  }
}

const isScale = (value: number): boolean => value >= smallest && value <= largest && Number.isInteger(Math.log2(value));
