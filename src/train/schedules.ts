import { EspalierError } from "../graph/index.ts";

/** The factor on the peak learning rate at a step (from 1 to `total`). */
export type Schedule = (step: number, total: number) => number;

export const scheduleNames = ["constant", "linear", "cosine"] as const;
export type ScheduleName = (typeof scheduleNames)[number];

export interface ScheduleOptions {
  /** Steps (or, below 1, the share of all steps) over which the rate rises linearly from 0. Default 0. */
  warmup?: number;
  /** The factor that linear and cosine decay to. Default 0. */
  floor?: number;
}

/**
 * Linear warm-up, then constant, linear decay or half a cosine towards `floor`. As in transformers, the first step after the warm-up has factor 1
 * and the last stands one step before the floor: a rate of 0 would make it a step that trains nothing.
 */
export function schedule(name: ScheduleName, options: ScheduleOptions = {}): Schedule {
  const { warmup = 0, floor = 0 } = options;
  if (!(warmup >= 0) || !(floor >= 0 && floor <= 1))
    throw new EspalierError(
      "bad-option",
      `A schedule needs warmup ≥ 0 and floor between 0 and 1, got warmup ${warmup} and floor ${floor}.`,
    );
  return (step, total) => {
    const rise = warmup < 1 ? Math.round(warmup * total) : warmup;
    if (step <= rise) return step / rise;
    const progress = Math.min(1, (step - 1 - rise) / Math.max(1, total - rise));
    const decayed = name === "constant" ? 1 : name === "linear" ? 1 - progress : 0.5 * (1 + Math.cos(Math.PI * progress));
    return floor + (1 - floor) * decayed;
  };
}
