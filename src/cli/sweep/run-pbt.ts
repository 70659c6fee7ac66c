import { join } from "node:path";
import { writeFileAtomically } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { type Lineage, policyLine, type Segment, scheduleOf } from "../../methods/search/lineage.ts";
import { type PbtResult, pbt } from "../../methods/search/pbt.ts";
import { type MemberRun, RunPopulation } from "../../methods/search/run-population.ts";
import { Interrupted } from "../signals.ts";
import { better, type SweepContext, scoreOf, spaceOf, trialFlags } from "./run-sweep.ts";
import { addResult, readResults, type SweepPlan, type SweepResult } from "./sweep-record.ts";
import type { TrialOutcome, TrialPayload } from "./trial.ts";

/** Options that may change in the middle of a run: weights and moments keep their shapes and their meaning, and the batches stay the same. */
const changeable = [
  "learningRate",
  "weightDecay",
  "maxGradientNorm",
  "dropout",
  "labelSmoothing",
  "beta",
  "teacherShare",
  "temperature",
] as const;

/** Refuses a space whose members could not go on from each other's weights. */
export function refuseUnchangeable(plan: SweepPlan): void {
  for (const name of Object.keys(plan.space))
    if (!(changeable as readonly string[]).includes(name))
      throw new EspalierError(
        "bad-space",
        `--space ${name}: members of pbt go on from each other's weights in the middle of a run, and ${name} cannot change there: it decides on the weights' shapes, on the data, or on how the run is laid out. What can is ${changeable.join(", ")}. Search ${name} with --strategy random or halving.`,
      );
}

/** Parts that each member is trained in. */
export const partsOf = (plan: SweepPlan): number => Math.round(1 / plan.ready);

export interface PbtSweep {
  /** Each member at its end, the best first. */
  results: SweepResult[];
  /** What the best was trained with, in steps. Absent where every member failed. */
  schedule?: Segment[];
}

/** Trains a population. Members that were trained before the sweep was stopped are not trained again; what follows from their scores is the same. */
export async function runPbt(plan: SweepPlan, { directory, executor, threads, onResult }: SweepContext): Promise<PbtSweep> {
  const parts = partsOf(plan);
  const known = readResults(directory);
  const newest: SweepResult[] = [];
  const run = async ({ member, values, part, from, directory: run }: MemberRun): Promise<SweepResult> => {
    const flags = { ...trialFlags(directory, plan, member, values, threads), run };
    const payload: TrialPayload = { flags, until: (part + 1) / parts, from };
    const began = performance.now();
    const outcome = (await executor.run({ kind: "trainTrial", payload })) as TrialOutcome;
    if ("interrupted" in outcome) throw new Interrupted();
    const common = { trial: member, rung: part, values, seconds: (performance.now() - began) / 1000 };
    const result: SweepResult =
      "error" in outcome
        ? { ...common, score: null, error: outcome.error }
        : { ...common, score: scoreOf(outcome.summary, plan.metric), summary: outcome.summary };
    addResult(directory, result);
    onResult(result);
    return result;
  };
  const population = new RunPopulation({
    directory,
    async run(part) {
      const result = known.find(({ trial, rung }) => trial === part.member && rung === part.part) ?? (await run(part));
      newest[part.member] = result;
      return result.score ?? Number.NaN;
    },
  });
  const summaryOf = () => newest.find(({ summary }) => summary)?.summary;
  let found: PbtResult;
  try {
    found = await pbt({ population: plan.trials, ready: 1 }).search({
      population,
      space: spaceOf(plan),
      // Parts: how many steps they have is known once there is a run.
      steps: parts,
      seed: plan.seed,
      higherIsBetter: () => better(plan.metric, summaryOf()?.higherIsBetter),
    });
  } catch (error) {
    if (error instanceof EspalierError && error.code === "search-failed") return { results: newest };
    throw error;
  }
  const lineage = inSteps(found.lineage, summaryOf()!.steps);
  const lines = lineage.copies.map((copy) => `${JSON.stringify(policyLine(copy))}\n`).join("");
  writeFileAtomically(join(directory, "pbt_policy.jsonl"), (append) => append(new TextEncoder().encode(lines)));
  return { results: found.members.map(({ member }) => newest[member]!), schedule: scheduleOf(lineage, found.best.member) };
}

/** A lineage whose steps are parts, in steps of the run: where the runs paused. */
function inSteps({ steps: parts, initial, copies }: Lineage, steps: number): Lineage {
  const pauseAt = (part: number) => Math.max(1, Math.round((part / parts) * steps));
  return { steps, initial, copies: copies.map((copy) => ({ ...copy, step: pauseAt(copy.step) })) };
}
