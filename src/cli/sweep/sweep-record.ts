import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { makeDirectory, readJsonObject, writeJson } from "../../checkpoints/index.ts";
import { EspalierError, fewProblems } from "../../graph/index.ts";
import type { Values } from "../../train/search/space.ts";
import type { TrialResult } from "../../train/search/successive-halving.ts";
import type { TrainSummary } from "../training/summary.ts";

/** What a sweep searches and how, as `sweep.json` holds it. */
const sweepSchema = z.strictObject({
  /** Options that all trials share. */
  options: z.record(z.string(), z.unknown()),
  /** As the command's option says it, by the option's name. */
  space: z.record(z.string(), z.string()),
  strategy: z.enum(["grid", "random", "halving", "pbt"]),
  trials: z.int().positive(),
  points: z.int().positive(),
  factor: z.int().min(2),
  smallest: z.number().gt(0).max(1),
  ready: z.number().gt(0).max(0.5).default(0.1),
  metric: z.string().optional(),
  seed: z.int().nonnegative(),
});
export type SweepPlan = z.output<typeof sweepSchema>;

/** A trial at a rung, with what `espalier train` says of it. */
export interface SweepResult extends TrialResult {
  values: Values;
  summary?: TrainSummary;
}

const [planFile, resultsFile] = ["sweep.json", "trials.jsonl"];

export const holdsSweep = (directory: string): boolean => existsSync(join(directory, planFile));

export function writePlan(directory: string, plan: SweepPlan): void {
  makeDirectory(directory);
  writeJson(join(directory, planFile), plan);
}

export function readPlan(directory: string): SweepPlan {
  const file = join(directory, planFile);
  if (!existsSync(file))
    throw new EspalierError(
      "nothing-to-resume",
      `${directory} holds no sweep to resume. Name the directory of one, or leave --resume out.`,
    );
  const parsed = sweepSchema.safeParse(readJsonObject(file));
  if (parsed.success) return parsed.data;
  throw new EspalierError(
    "bad-sweep",
    `${file} is damaged: ${fewProblems(parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`)).join("; ")}`,
  );
}

/** One line, at once: a sweep that is killed loses the trial that runs, and goes on from its checkpoint. */
export function addResult(directory: string, result: SweepResult): void {
  appendFileSync(join(directory, resultsFile), `${JSON.stringify(result)}\n`);
}

/** What was finished before; a line that a kill cut short is none. */
export function readResults(directory: string): SweepResult[] {
  const file = join(directory, resultsFile);
  if (!existsSync(file)) return [];
  return readFileSync(file, "utf8")
    .split("\n")
    .flatMap((line) => {
      try {
        const result = JSON.parse(line) as SweepResult;
        return Number.isInteger(result.trial) && Number.isInteger(result.rung) ? [result] : [];
      } catch {
        return [];
      }
    });
}

export const trialDirectory = (directory: string, trial: number): string => join(directory, `trial-${String(trial).padStart(3, "0")}`);
