import { EspalierError } from "../graph/index.ts";

/** The factor on the peak learning rate at a step (from 1 to `total`). */
export type Schedule = (step: number, total: number) => number;

export const scheduleNames = ["constant", "linear", "cosine", "cosine-restarts", "polynomial", "inverse-sqrt", "wsd"] as const;
export type ScheduleName = (typeof scheduleNames)[number];

export interface ScheduleOptions {
  /** Steps (or, below 1, the share of all steps) over which the rate rises linearly from 0. Default 0. */
  warmup?: number;
  /** The factor that the schedules decay to, but for constant and inverse-sqrt, which have no end. Default 0. */
  floor?: number;
  /** Of wsd: steps (or, below 1, the share of all steps) over which the rate falls at the end. Default 0.2. */
  decay?: number;
  /** Of wsd: the shape of that fall. Default cosine. */
  decayShape?: "cosine" | "linear";
  /** Of cosine-restarts: how often the cosine runs. Default 2. */
  cycles?: number;
  /** Of polynomial: the exponent. Default 2. */
  power?: number;
}

/** A number of steps, or a share of all of them. */
const stepsOf = (stepsOrShare: number, total: number): number => (stepsOrShare < 1 ? Math.round(stepsOrShare * total) : stepsOrShare);

const cosine = (progress: number): number => 0.5 * (1 + Math.cos(Math.PI * progress));

/**
 * Linear warm-up, then
 *
 * - `constant`: no decay
 * - `linear`, `cosine` (half a cosine), `polynomial` ((1 − progress)^power): decay over all the steps that are left
 * - `cosine-restarts`: as many cosines as `cycles` (Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts")
 * - `inverse-sqrt`: 1/√(steps / warm-up), whatever the number of steps; without a warm-up as if after one of 10 000
 * - `wsd`: the peak until the last `decay` steps (Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies")
 *
 * As in transformers, the first step after the warm-up has factor 1 and the last stands one step before the floor: a rate of 0 would make it a step
 * that trains nothing.
 */
export function schedule(name: ScheduleName, options: ScheduleOptions = {}): Schedule {
  const { warmup = 0, floor = 0, decay = 0.2, decayShape = "cosine", cycles = 2, power = 2 } = options;
  if (!(warmup >= 0) || !(floor >= 0 && floor <= 1) || !(decay >= 0) || !(cycles > 0) || !(power > 0))
    throw new EspalierError(
      "bad-option",
      `A schedule needs warmup ≥ 0, floor between 0 and 1, decay ≥ 0, cycles and power above 0; got warmup ${warmup}, floor ${floor}, decay ${decay}, cycles ${cycles} and power ${power}.`,
    );
  return (step, total) => {
    const rise = stepsOf(warmup, total);
    if (step <= rise) return step / rise;
    const done = step - 1 - rise;
    if (name === "inverse-sqrt") return rise > 0 ? Math.sqrt(rise / (done + rise)) : Math.sqrt(10_000 / (done + 10_000));
    const fall = name === "wsd" ? Math.min(stepsOf(decay, total), total - rise) : total - rise;
    const progress = Math.min(1, Math.max(0, done - (total - rise - fall)) / Math.max(1, fall));
    return floor + (1 - floor) * remaining(progress);
  };

  function remaining(progress: number): number {
    if (name === "constant") return 1;
    if (name === "linear" || (name === "wsd" && decayShape === "linear")) return 1 - progress;
    if (name === "polynomial") return (1 - progress) ** power;
    return cosine(name === "cosine-restarts" && progress < 1 ? (cycles * progress) % 1 : progress);
  }
}
