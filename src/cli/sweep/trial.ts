/** One trial of a search: a run of `espalier train` in a directory of its own, trained up to a share of its steps. Also what a worker process does. */
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { makeDirectory } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { RunDirectory } from "../../train/run-directory.ts";
import { runTrain } from "../commands/train.ts";
import type { TrainFlags } from "../config/resolve-run.ts";
import { Interrupted } from "../signals.ts";
import { Terminal } from "../terminal.ts";
import type { TrainSummary } from "../training/summary.ts";

export interface TrialPayload {
  flags: TrainFlags & { run: string };
  /** Share of the run's steps. */
  until: number;
  /** The run directory that it goes on from, where it has no checkpoint of its own. */
  from?: string | undefined;
}

/** What can be told of a trial across processes. */
export type TrialOutcome = { summary: TrainSummary } | { error: string } | { interrupted: true };

/** Trains from the run's newest checkpoint, if it has one, up to `until`. What the command would print goes into `output.log`. */
export async function trainTrial({ flags, until, from }: TrialPayload): Promise<TrialOutcome> {
  makeDirectory(flags.run);
  const log = createWriteStream(join(flags.run, "output.log"), { flags: "a" });
  try {
    const resume = new RunDirectory(flags.run).latestCheckpoint() !== undefined;
    return { summary: await runTrain({ ...flags, ...(resume ? { resume } : { replace: true }) }, new Terminal(log), { until, from }) };
  } catch (error) {
    if (error instanceof Interrupted) return { interrupted: true };
    // A setting that cannot be trained is a result; a fault of ours is not.
    if (error instanceof EspalierError) return { error: error.message };
    throw error;
  } finally {
    await new Promise<void>((resolve) => log.end(resolve));
  }
}
