import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import {
  makeDirectory,
  openSafetensors,
  readJsonObject,
  readStorage,
  writeFileAtomically,
  writeJson,
  writeSafetensors,
} from "../checkpoints/index.ts";
import { EspalierError, isFloat, type MemoryStorage, type Variable } from "../graph/index.ts";
import type { Device } from "../runtime/index.ts";
import { sweepRun } from "./run-files.ts";

const stateSchema = z.object({
  step: z.int().nonnegative(),
  tokens: z.int().nonnegative(),
  /** For each gate, how often it was open. */
  updates: z.record(z.string(), z.int().nonnegative()).default({}),
  /** What methods keep on the host. */
  methods: z.array(z.object({ name: z.string(), state: z.unknown() })).default([]),
});

/** The position of a run, beside its tensors. */
export type TrainerState = z.output<typeof stateSchema>;

/** `runs/<name>/`: run.json, metrics.jsonl and checkpoints/step-N/. */
export class RunDirectory {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
    makeDirectory(path);
  }

  /** Removes what a killed run left unfinished. Not for a reader: another process may be writing here. */
  sweep(): void {
    sweepRun(this.path);
  }

  /** Records the resolved configuration. */
  writeRun(run: Readonly<Record<string, unknown>>): void {
    writeJson(join(this.path, "run.json"), run);
  }

  /** Appends one line to metrics.jsonl. */
  log(record: Readonly<Record<string, unknown>>): void {
    const file = join(this.path, "metrics.jsonl");
    try {
      appendFileSync(file, `${JSON.stringify(record)}\n`);
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      const why = code === "ENOSPC" || code === "EDQUOT" ? `the disk or quota is full (${code})` : message;
      throw new EspalierError(
        code === "ENOSPC" ? "disk-full" : "not-writable",
        `${file}: cannot be written, ${why}. ${this.#lastCheckpoint()}`,
        {
          cause,
        },
      );
    }
  }

  /** Logs what the held-out data say of the weights after `step`; 0 for those before training. Once: a finished run that is resumed evaluates again. */
  logEvaluation(step: number, metrics: Readonly<Record<string, number>>): void {
    const file = join(this.path, "metrics.jsonl");
    if (existsSync(file) && readFileSync(file, "utf8").includes(`\n{"step":${step},"eval.`)) return;
    this.log({ step, ...Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval.${name}`, value])) });
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
    const lines = kept.map((line) => `${line}\n`).join("");
    writeFileAtomically(file, (append) => append(new TextEncoder().encode(lines)));
  }

  /** Writes a checkpoint aside and renames it into place, then removes all but the newest `keep`. Returns its path. */
  saveCheckpoint(state: TrainerState, variables: readonly Variable[], device: Device, keep: number): string {
    const directory = join(this.path, "checkpoints");
    const final = join(directory, `step-${state.step}`);
    const aside = join(directory, `.step-${state.step}.tmp`);
    const tensors = new Map<string, MemoryStorage>(variables.map((v) => [v.name, { kind: "memory", ...device.read(v) }]));
    this.#refuseNotFinite(state.step, tensors);
    makeDirectory(directory);
    try {
      rmSync(aside, { recursive: true, force: true });
      mkdirSync(aside);
      writeSafetensors(join(aside, "state.safetensors"), tensors);
      writeJson(join(aside, "trainer.json"), state);
      rmSync(final, { recursive: true, force: true });
      renameSync(aside, final);
    } catch (cause) {
      rmSync(aside, { recursive: true, force: true });
      const reason = cause instanceof EspalierError ? cause.message : `${(cause as Error).message}.`;
      throw new EspalierError(
        "checkpoint-failed",
        `Could not write the checkpoint of step ${state.step} to ${final}: ${reason} ${this.#lastCheckpoint()}`,
        { cause },
      );
    }
    // Never the one just written, whatever `keep` says and whatever higher numbers lie there.
    const others = this.checkpoints().filter(({ path }) => path !== final);
    for (const { path } of others.slice(0, Math.max(0, others.length + 1 - keep))) rmSync(path, { recursive: true, force: true });
    return final;
  }

  #lastCheckpoint(): string {
    const last = this.latestCheckpoint();
    return last ? `The checkpoint of step ${last.step} is intact in ${last.path}.` : "There is no earlier checkpoint.";
  }

  /** A loss is measured before the update that it causes: weights that the last update broke must not pass for the last good ones. */
  #refuseNotFinite(step: number, tensors: ReadonlyMap<string, MemoryStorage>): void {
    for (const [name, { dtype, data }] of tensors) {
      if (!isFloat(dtype) || (data as Float32Array).every(Number.isFinite)) continue;
      throw new EspalierError(
        "not-finite",
        `Step ${step}: "${name}" holds NaN or infinite values after the update, so no checkpoint of it is written. ${this.#lastCheckpoint()} Lower the learning rate or lengthen the warm-up.`,
      );
    }
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
      if (stored.shape.join() !== v.shape.join() || stored.dtype !== v.dtype)
        throw new EspalierError(
          "checkpoint-mismatch",
          `${path}: "${v.name}" is ${stored.dtype} [${stored.shape.join(", ")}] in the checkpoint and ${v.dtype} [${v.shape.join(", ")}] in this run; it was written by a run with other options.`,
        );
      device.release(v);
      // In memory: this checkpoint's files will make room for newer ones.
      v.storage = { kind: "memory", dtype: v.dtype, shape: v.shape, data: readStorage(stored) };
    }
    const file = join(path, "trainer.json");
    const state = stateSchema.safeParse(readJsonObject(file));
    if (!state.success)
      throw new EspalierError(
        "checkpoint-json",
        `${file}: must say the run's step and tokens in whole numbers. Remove this checkpoint to resume from the one before.`,
      );
    return state.data;
  }
}
