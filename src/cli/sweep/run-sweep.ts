import { EspalierError, nearestNames, Random } from "../../graph/index.ts";
import type { Executor } from "../../train/search/executor.ts";
import { draw, grid, parseDimension, type Space, sample, type Values } from "../../train/search/space.ts";
import { ranked, rungShares, successiveHalving } from "../../train/search/successive-halving.ts";
import { checked } from "../config/load-config.ts";
import type { TrainFlags } from "../config/resolve-run.ts";
import { runOptions, runSchema } from "../config/run-options.ts";
import type { DataOption } from "../data-sources.ts";
import { Interrupted } from "../signals.ts";
import { addResult, readResults, type SweepPlan, type SweepResult, trialDirectory } from "./sweep-record.ts";
import type { TrialOutcome, TrialPayload } from "./trial.ts";

/** Options that a search may not choose: they say where and how, not what. */
const fixed = new Set([
  "data",
  "evalData",
  "heldOut",
  "streaming",
  "run",
  "json",
  "report",
  "tensorboard",
  "profile",
  "baseline",
  "threads",
]);

/** The space of a plan; options that do not exist are refused. */
export function spaceOf(plan: SweepPlan): Space {
  const searchable = Object.keys(runOptions).filter((key) => !fixed.has(key));
  for (const name of Object.keys(plan.space)) {
    if (searchable.includes(name.split(".")[0]!)) continue;
    throw new EspalierError(
      "bad-space",
      fixed.has(name)
        ? `--space ${name}: ${name} is the same for all trials. Give it as an option.`
        : `--space ${name}: there is no option "${name}"; nearest: ${nearestNames(name, searchable).join(", ")}.`,
    );
  }
  return Object.fromEntries(Object.entries(plan.space).map(([name, text]) => [name, parseDimension(text)]));
}

/** The settings that a plan tries, in order: a function of the plan alone. */
export function trialsOf(plan: SweepPlan): Values[] {
  const space = spaceOf(plan);
  if (plan.strategy === "grid") return grid(space, plan.points);
  // Members of a population may be alike: they part later.
  if (plan.strategy === "pbt") return Array.from({ length: plan.trials }, (_, trial) => sample(space, new Random(plan.seed, trial)));
  return draw(space, plan.trials, plan.seed);
}

export const rungsOf = (plan: SweepPlan): number[] => (plan.strategy === "halving" ? rungShares(plan.factor, plan.smallest) : [1]);

/** The options of a trial. `methodOptions.tokens` is an entry of `methodOptions`. */
export function trialFlags(
  directory: string,
  plan: SweepPlan,
  trial: number,
  values: Values,
  threads: number | undefined,
): TrainFlags & { run: string } {
  const options: Record<string, unknown> = { ...plan.options };
  for (const [name, value] of Object.entries(values)) {
    const [key, entry] = name.split(".") as [string, string?];
    options[key] = entry === undefined ? value : { ...(options[key] as object), [entry]: value };
  }
  const run = trialDirectory(directory, trial);
  // Its metrics are the sweep's: neither a report nor the base is asked for again.
  const whole = { ...options, run, baseline: false, report: false, ...(threads !== undefined && { threads }) };
  return { ...runSchema.parse(checked(whole, `trial ${trial}`)), data: plan.options.data as DataOption, run };
}

export interface SweepContext {
  directory: string;
  executor: Executor;
  /** Processor threads of a trial. */
  threads?: number | undefined;
  onResult(result: SweepResult): void;
}

/** Trains what the plan asks for and was not finished before. The best trial comes first; failed ones are among them. */
export async function runSweep(plan: SweepPlan, { directory, executor, threads, onResult }: SweepContext): Promise<SweepResult[]> {
  const trials = trialsOf(plan);
  const rungs = rungsOf(plan);
  // All are checked before the first is trained.
  const flags = trials.map((values, trial) => trialFlags(directory, plan, trial, values, threads));
  const known = readResults(directory);
  let higherIsBetter = known.find(({ summary }) => summary)?.summary?.higherIsBetter;
  const results = await successiveHalving({
    trials: trials.length,
    rungs,
    factor: plan.factor,
    // Known once the first trial has said so: all have the same task.
    higherIsBetter: () => better(plan.metric, higherIsBetter),
    known,
    async run(trial, rung) {
      const payload: TrialPayload = { flags: flags[trial]!, until: rungs[rung]! };
      const began = performance.now();
      const outcome = (await executor.run({ kind: "trainTrial", payload })) as TrialOutcome;
      if ("interrupted" in outcome) throw new Interrupted();
      const seconds = (performance.now() - began) / 1000;
      const common = { trial, rung, values: trials[trial]!, seconds };
      const result: SweepResult =
        "error" in outcome
          ? { ...common, score: null, error: outcome.error }
          : { ...common, score: scoreOf(outcome.summary, plan.metric), summary: outcome.summary };
      higherIsBetter ??= result.summary?.higherIsBetter;
      addResult(directory, result);
      onResult(result);
      return result;
    },
  });
  return lastOfEach(results as SweepResult[], better(plan.metric, higherIsBetter));
}

/** A metric that the user names is judged by its name; a loss is better when it is lower. */
export const better = (metric: string | undefined, task: boolean | undefined): boolean =>
  metric === undefined ? (task ?? true) : !/loss|perplexity|bits|error|rate$|mse|mae/i.test(metric);

export function scoreOf(summary: NonNullable<SweepResult["summary"]>, metric = summary.metric): number {
  const score = summary.after[metric];
  if (score === undefined)
    throw new EspalierError("bad-option", `--metric ${metric}: the task measures ${Object.keys(summary.after).join(", ")}.`);
  return score;
}

/** Every trial as far as it came: those that came further first, the better ones of them first. */
function lastOfEach(results: readonly SweepResult[], higherIsBetter: boolean): SweepResult[] {
  const rungs = [...new Set(results.map(({ rung }) => rung))].sort((a, b) => b - a);
  const seen = new Set<number>();
  return rungs.flatMap((rung) =>
    ranked(
      results.filter((r) => r.rung === rung && !seen.has(r.trial)),
      higherIsBetter,
    ).map((result) => {
      seen.add(result.trial);
      return result;
    }),
  );
}
