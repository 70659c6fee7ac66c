import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { flushDirectory, makeDirectory, writeJson } from "../checkpoints/index.ts";
import { EspalierError, type Variable } from "../graph/index.ts";
import type { Device } from "../runtime/index.ts";
import { damageOf, readCheckpoint, removeCheckpoint, type TrainerState, writeCheckpoint } from "./checkpoint.ts";
import { MetricsLog } from "./metrics-log.ts";
import { sweepRun } from "./run-files.ts";

export interface CheckpointPlace {
  step: number;
  path: string;
}

/** `runs/<name>/`: run.json, metrics.jsonl and checkpoints/step-N/. Whoever writes here holds the run's lock (run-lock.ts). */
export class RunDirectory {
  readonly path: string;
  readonly #metrics: MetricsLog;

  constructor(path: string) {
    this.path = path;
    makeDirectory(path);
    this.#metrics = new MetricsLog(join(path, "metrics.jsonl"));
  }

  /** Removes what a killed run left unfinished. */
  sweep(): void {
    sweepRun(this.path);
  }

  /** Records the resolved configuration. */
  writeRun(run: Readonly<Record<string, unknown>>): void {
    writeJson(join(this.path, "run.json"), run);
  }

  /** Appends one line to metrics.jsonl. */
  log(record: Readonly<Record<string, unknown>>): void {
    this.#logging(() => this.#metrics.append(record));
  }

  /** Logs what the held-out data say of the weights after `step`; 0 for those before training. Once: a finished run that is resumed evaluates again. */
  logEvaluation(step: number, metrics: Readonly<Record<string, number>>): void {
    if (!this.holdsEvaluation(step)) this.#logging(() => this.#metrics.appendEvaluation(step, metrics));
  }

  holdsEvaluation(step: number): boolean {
    return this.#metrics.holdsEvaluation(step);
  }

  /** Drops the metrics of steps after `step`: a resumed run writes them again. */
  truncateMetrics(step: number): void {
    this.#metrics.truncate(step);
  }

  #logging(write: () => void): void {
    try {
      write();
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      const full = code === "ENOSPC" || code === "EDQUOT";
      const why = full ? `the disk or quota is full (${code})` : message;
      throw new EspalierError(
        full ? "disk-full" : "not-writable",
        `${this.#metrics.file}: cannot be written, ${why}. ${this.#lastCheckpoint()}`,
        { cause },
      );
    }
  }

  /** Removes the checkpoints of later steps, which a resumed run writes again: they are damaged. */
  removeCheckpointsAfter(step: number): void {
    for (const later of this.checkpoints()) if (later.step > step) removeCheckpoint(later.path);
  }

  /** Writes a checkpoint, then removes all but the newest `keep`, and those of later steps. Returns its path. */
  saveCheckpoint(state: TrainerState, variables: readonly Variable[], device: Device, keep: number): string {
    const directory = join(this.path, "checkpoints");
    const path = join(directory, `step-${state.step}`);
    try {
      if (!existsSync(directory)) {
        makeDirectory(directory);
        flushDirectory(this.path);
      }
      // The steps that the checkpoint stands for, before the checkpoint.
      this.#metrics.flush();
      writeCheckpoint(path, state, variables, device);
      this.removeCheckpointsAfter(state.step);
      for (const old of this.checkpoints().slice(0, -keep)) removeCheckpoint(old.path);
    } catch (cause) {
      const reason = cause instanceof EspalierError ? cause.message : `${(cause as Error).message}.`;
      if (cause instanceof EspalierError && cause.code === "not-finite")
        throw new EspalierError(
          "not-finite",
          `Step ${state.step}: ${reason}, so no checkpoint of it is written. ${this.#lastCheckpoint()} Lower the learning rate or lengthen the warm-up.`,
          { cause },
        );
      throw new EspalierError(
        "checkpoint-failed",
        `Could not write the checkpoint of step ${state.step} to ${path}: ${reason} ${this.#lastCheckpoint()}`,
        { cause },
      );
    }
    return path;
  }

  #lastCheckpoint(): string {
    const last = this.latestCheckpoint();
    return last ? `The checkpoint of step ${last.step} is intact in ${last.path}.` : "There is no earlier checkpoint.";
  }

  /** Checkpoints, the oldest first. Unfinished ones have no such name. */
  checkpoints(): CheckpointPlace[] {
    const directory = join(this.path, "checkpoints");
    if (!existsSync(directory)) return [];
    return readdirSync(directory)
      .flatMap((name) => {
        const match = /^step-(\d+)$/.exec(name);
        return match ? [{ step: Number(match[1]), path: join(directory, name) }] : [];
      })
      .sort((a, b) => a.step - b.step);
  }

  latestCheckpoint(): CheckpointPlace | undefined {
    return this.checkpoints().at(-1);
  }

  /**
   * The newest checkpoint whose files are as they were written; `onDamage` hears of newer ones that are not.
   *
   * @throws EspalierError `checkpoint-damaged` when there are checkpoints and none is intact
   */
  intactCheckpoint(onDamage: (message: string) => void): CheckpointPlace | undefined {
    const all = this.checkpoints().reverse();
    const damages: string[] = [];
    for (const checkpoint of all) {
      const damage = damageOf(checkpoint.path);
      if (damage === undefined) {
        for (const found of damages) onDamage(`${found} The run goes on from step ${checkpoint.step}.`);
        return checkpoint;
      }
      damages.push(`${checkpoint.path} is damaged: ${damage}.`);
    }
    if (all.length === 0) return undefined;
    throw new EspalierError(
      "checkpoint-damaged",
      `${this.path} cannot be resumed, no checkpoint is as it was written. ${damages.join(" ")} Restore one of them, or start the run anew (--replace).`,
    );
  }

  /** Puts the values of a checkpoint into the variables and returns its state. */
  loadCheckpoint(path: string, variables: readonly Variable[], device: Device): TrainerState {
    return readCheckpoint(path, variables, device);
  }
}
