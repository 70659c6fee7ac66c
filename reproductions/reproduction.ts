/**
 * Whether a method does here, on a small scale, what its paper claims. One file per method, `<family>/<slug>.ts`; `npm run reproduce -- <family>/<slug>`
 * runs it and writes `results/<family>/<slug>.json`. A claim that does not hold is recorded as such.
 */
export interface Reproduction {
  /** `<family>/<slug>`. */
  name: string;
  /** What the paper says, as far as it is tested here. */
  claim: string;
  /** Model, data, budget, seeds; and what is compared with what. */
  setup: string;
  /** What else was tried, and what it says of the verdict. */
  notes?: readonly string[];
  /** `smoke` goes the same way in a few seconds, on a size whose figures say nothing. */
  run(options: { smoke: boolean; log(line: string): void }): Promise<Outcome>;
}

export interface Outcome {
  /** By name; a value for each seed. */
  measurements: Readonly<Record<string, readonly number[]>>;
  checks: readonly Check[];
}

/** One inequality of a verdict. */
export interface Check {
  what: string;
  value: number;
  relation: "≥" | "≤";
  bound: number;
  holds: boolean;
}

/** `value ≥ bound`. */
export const atLeast = (what: string, value: number, bound: number): Check => ({
  what,
  value,
  relation: "≥",
  bound,
  holds: value >= bound,
});

/** `value ≤ bound`. */
export const atMost = (what: string, value: number, bound: number): Check => ({ what, value, relation: "≤", bound, holds: value <= bound });

export const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** Standard deviation between seeds (n − 1); 0 for one. */
export const spread = (values: readonly number[]): number =>
  values.length < 2 ? 0 : Math.sqrt(values.reduce((a, b) => a + (b - mean(values)) ** 2, 0) / (values.length - 1));
