import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { makeDirectory, openSafetensors, writeJson, writeSafetensors } from "../checkpoints/index.ts";
import { EspalierError, type Storage, type Variable } from "../graph/index.ts";
import type { Device } from "../runtime/index.ts";

/** The position of a run, beside its tensors. */
export interface TrainerState {
  step: number;
  tokens: number;
}

/** `runs/<name>/`: run.json, metrics.jsonl and checkpoints/step-N/. */
export class RunDirectory {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
    makeDirectory(path);
  }

  /** Records the resolved configuration. */
  writeRun(run: Readonly<Record<string, unknown>>): void {
    writeJson(join(this.path, "run.json"), run);
  }

  /** Appends one line to metrics.jsonl. */
  log(record: Readonly<Record<string, unknown>>): void {
    appendFileSync(join(this.path, "metrics.jsonl"), `${JSON.stringify(record)}\n`);
  }

  /** Drops the metrics of steps after `step`: a resumed run writes them again. */
  truncateMetrics(step: number): void {
    const file = join(this.path, "metrics.jsonl");
    if (!existsSync(file)) return;
    const kept = readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => {
        try {
          return line !== "" && (JSON.parse(line) as { step: number }).step <= step;
        } catch {
          return false; // a line cut short by a kill
        }
      });
    const aside = `${file}.tmp`;
    rmSync(aside, { force: true });
    if (kept.length > 0) appendFileSync(aside, `${kept.join("\n")}\n`);
    else appendFileSync(aside, "");
    renameSync(aside, file);
  }

  /** Writes a checkpoint aside and renames it into place, then removes all but the newest `keep`. Returns its path. */
  saveCheckpoint(state: TrainerState, variables: readonly Variable[], device: Device, keep: number): string {
    const directory = join(this.path, "checkpoints");
    const final = join(directory, `step-${state.step}`);
    const aside = join(directory, `.step-${state.step}.tmp`);
    rmSync(aside, { recursive: true, force: true });
    makeDirectory(directory);
    try {
      mkdirSync(aside);
      const tensors = new Map<string, Storage>(variables.map((v) => [v.name, { kind: "memory", ...device.read(v) }]));
      writeSafetensors(join(aside, "state.safetensors"), tensors);
      writeJson(join(aside, "trainer.json"), state);
      rmSync(final, { recursive: true, force: true });
      renameSync(aside, final);
    } catch (cause) {
      rmSync(aside, { recursive: true, force: true });
      const last = this.latestCheckpoint();
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new EspalierError(
        "checkpoint-failed",
        `Could not write the checkpoint of step ${state.step} to ${final}: ${reason} ${last ? `The checkpoint of step ${last.step} is intact in ${last.path}.` : "There is no earlier checkpoint."}`,
        { cause },
      );
    }
    for (const { path } of this.checkpoints().slice(0, -keep)) rmSync(path, { recursive: true, force: true });
    return final;
  }

  /** Finished checkpoints, the oldest first. */
  checkpoints(): { step: number; path: string }[] {
    const directory = join(this.path, "checkpoints");
    if (!existsSync(directory)) return [];
    return readdirSync(directory)
      .flatMap((name) => {
        const match = /^step-(\d+)$/.exec(name);
        return match ? [{ step: Number(match[1]), path: join(directory, name) }] : [];
      })
      .sort((a, b) => a.step - b.step);
  }

  latestCheckpoint(): { step: number; path: string } | undefined {
    return this.checkpoints().at(-1);
  }

  /** Puts the values of a checkpoint into the variables and returns its state. */
  loadCheckpoint(path: string, variables: readonly Variable[], device: Device): TrainerState {
    const { tensors } = openSafetensors(join(path, "state.safetensors"));
    for (const v of variables) {
      const stored = tensors.get(v.name);
      if (!stored)
        throw new EspalierError(
          "checkpoint-mismatch",
          `${path}: the checkpoint lacks "${v.name}"; it was written by a run with other methods or another optimizer.`,
        );
      device.release(v);
      v.storage = stored;
    }
    return JSON.parse(readFileSync(join(path, "trainer.json"), "utf8")) as TrainerState;
  }
}
