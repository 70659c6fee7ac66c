import { EspalierError } from "../../graph/index.ts";

/** What became of a trial at one rung. */
export interface TrialResult {
  trial: number;
  /** Index into the rungs. */
  rung: number;
  /** The metric; null where the trial failed, which ranks last. */
  score: number | null;
  seconds: number;
  error?: string;
}

export interface HalvingOptions {
  /** How many trials begin. */
  trials: number;
  /** Shares of the whole budget at which trials are compared, ascending to 1. One rung, [1]: all are trained to the end. */
  rungs: readonly number[];
  /** Of `factor` trials one goes on to the next rung. Default 3. */
  factor?: number;
  /** Asked when trials are compared: until one has run, nobody may know. */
  higherIsBetter(): boolean;
  /** Trains a trial up to a rung, from where the rung before left it. Called for several trials at once. */
  run(trial: number, rung: number): Promise<TrialResult>;
  /** Results of an interrupted search, which are not computed again. */
  known?: readonly TrialResult[];
}

/** Rungs for a budget: the whole of it, and shares a factor smaller each, down to `smallest`. */
export function rungShares(factor: number, smallest: number): number[] {
  if (!(factor >= 2) || !(smallest > 0 && smallest <= 1))
    throw new EspalierError(
      "bad-option",
      `Halving needs a factor of at least 2 and a smallest share between 0 and 1, got ${factor} and ${smallest}.`,
    );
  const shares = [1];
  while (shares[0]! / factor >= smallest) shares.unshift(shares[0]! / factor);
  return shares;
}

/**
 * Trains many settings a little and the better ones further (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
 * Optimization"; Li et al., "Hyperband"). A grid or a random search is the case of one rung. Returns all results, rung by rung.
 */
export async function successiveHalving({
  trials,
  rungs,
  factor = 3,
  higherIsBetter,
  run,
  known = [],
}: HalvingOptions): Promise<TrialResult[]> {
  const results: TrialResult[] = [];
  let going = Array.from({ length: trials }, (_, trial) => trial);
  for (const rung of rungs.keys()) {
    const here = await Promise.all(going.map((trial) => known.find((r) => r.trial === trial && r.rung === rung) ?? run(trial, rung)));
    results.push(...here);
    // A trial that failed is not trained further, even if nobody else is left.
    going = ranked(here, higherIsBetter())
      .slice(0, Math.max(1, Math.floor(going.length / factor)))
      .filter(({ score }) => score !== null)
      .map(({ trial }) => trial);
  }
  return results;
}

/** The best first; of equal ones the earlier trial; failed ones last. */
export function ranked<R extends { trial: number; score: number | null }>(results: readonly R[], higherIsBetter: boolean): R[] {
  const value = ({ score }: R) => (score === null || Number.isNaN(score) ? Number.NEGATIVE_INFINITY : higherIsBetter ? score : -score);
  return [...results].sort((a, b) => (value(a) === value(b) ? a.trial - b.trial : value(b) > value(a) ? 1 : -1));
}
