import { dataOptions } from "../config/run-options.ts";
import { modelDirectory } from "../model-directory.ts";
import { chosenTask } from "../training-task.ts";
import { refuseUnchangeable } from "./run-pbt.ts";
import { trialFlags, trialsOf } from "./run-sweep.ts";
import type { SweepPlan } from "./sweep-record.ts";

/** Refuses a plan whose trials could not begin: before the first is trained, and before anything is written into the sweep's directory. */
export async function checkPlan(plan: SweepPlan, directory: string): Promise<void> {
  const trials = trialsOf(plan).map((values, trial) => trialFlags(directory, plan, trial, values, undefined));
  if (plan.strategy === "pbt") refuseUnchangeable(plan);
  const checked = new Set<string>();
  for (const flags of trials) {
    // Most differ in what neither data nor model depend on.
    const from = JSON.stringify([
      flags.model,
      flags.teacher,
      ...Object.keys(dataOptions).map((key) => flags[key as keyof typeof dataOptions]),
    ]);
    if (checked.has(from)) continue;
    checked.add(from);
    if (flags.teacher !== undefined) await modelDirectory(flags.teacher);
    chosenTask({ ...flags, model: await modelDirectory(flags.model) });
  }
}
