import { accessSync, constants, existsSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { makeDirectory, readJsonObject } from "../checkpoints/index.ts";
import { EspalierError, fewProblems, show } from "../graph/index.ts";
import { type CheckpointPlace, RunDirectory } from "../train/run-directory.ts";
import { clearingTouches, clearRun, holdsRun } from "../train/run-files.ts";
import { refuseLocked } from "../train/run-lock.ts";
import { flagName, type RunOption } from "./config/run-option.ts";
import { type RunConfig, runOptions, runSchema } from "./config/run-options.ts";
import { type DataOption, dataSources } from "./data-sources.ts";
import type { DataFiles, Fingerprints, RunInputs } from "./fingerprints.ts";

/** The options of `espalier train` that choose the run directory, and what is done with a run that it holds. */
export interface RunFlags {
  data: DataOption;
  model: string;
  run?: string;
  resume?: boolean;
  replace?: boolean;
}

/** Options that may change when a run is resumed, because the trained weights do not depend on them. */
const isFree = (key: string): boolean => (runOptions as Readonly<Record<string, RunOption>>)[key]?.free ?? false;

/**
 * Chooses the run directory: never one that holds a run already, unless that run is replaced, or resumed with the options that it was started with.
 * Nothing is written.
 */
export function chooseRun(flags: RunFlags): string {
  const base = flags.run ?? join("runs", basename(dataSources(flags.data)[0]!.path).replace(/\.\w+$/, ""));
  if (flags.resume) {
    refuseLocked(base); // first: whoever replaces the run there has removed it, and has not begun yet
    if (!holdsRun(base))
      throw new EspalierError("nothing-to-resume", `${base} holds no run to resume. Name it with --run, or leave --resume out.`);
    refuseOtherOptions(base, { ...flags });
    return base;
  }
  if (flags.replace || !holdsRun(base)) return base;
  if (flags.run !== undefined)
    throw new EspalierError(
      "run-exists",
      `${base} holds a run already. Continue it with --resume, replace it with --replace, or give another --run.`,
    );
  let n = 2;
  while (holdsRun(`${base}-${n}`)) n++;
  return `${base}-${n}`;
}

/** Makes sure that the run can be written before an hour has gone into it. */
export function checkWritable(run: string): void {
  makeDirectory(run);
  try {
    accessSync(run, constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw new EspalierError(
      "not-writable",
      `${run}: cannot be written to (${(cause as NodeJS.ErrnoException).code}). Give another --run.`,
      {
        cause,
      },
    );
  }
}

/**
 * Makes the directory ready for training: an old run is removed if it is to be replaced, and a resumed run is checked to start from the same things.
 * Returns the checkpoint to go on from; a run that was stopped before its first one begins anew.
 */
export function prepareRun(run: string, flags: RunFlags, inputs: RunInputs): CheckpointPlace | undefined {
  if (flags.replace) {
    if (clearingTouches(run, flags.model))
      throw new EspalierError(
        "run-exists",
        `${flags.model} is part of the run that --replace would remove, so it cannot be what training starts from. Give another --run.`,
      );
    clearRun(run);
  }
  if (!flags.resume) return undefined;
  refuseOtherInputs(run, { ...flags }, inputs);
  return new RunDirectory(run).latestCheckpoint();
}

const advice = "Give the same, or start a new run with another --run.";

const filesSchema = z.record(z.string(), z.object({ sha256: z.string(), bytes: z.number() }));

const recordedSchema = z.object({
  options: z.record(z.string(), z.unknown()),
  sha256: z.object({ data: z.string(), evalData: z.string().optional(), model: z.string() }),
  files: z.object({ data: filesSchema.optional(), evalData: filesSchema.optional() }),
});

/** The options that a run was started with, as far as it says them: what a resumed run need not be told again. How it prints is not among them. */
export function recordedOptions(run: string): RunConfig {
  const file = join(run, "run.json");
  if (!existsSync(file)) return {};
  const { json: _, ...options } = recorded(file).options;
  const known = Object.fromEntries(Object.entries(options).filter(([key]) => key in runOptions));
  const parsed = runSchema.safeParse(known);
  if (parsed.success) return known as RunConfig;
  const problems = parsed.error.issues.map((issue) => `options.${issue.path.join(".")}: ${issue.message}`);
  throw new EspalierError("resume-mismatch", `${file} is damaged: ${fewProblems(problems).join("; ")} Start a new run with another --run.`);
}

function recorded(file: string): z.output<typeof recordedSchema> {
  const parsed = recordedSchema.safeParse(readJsonObject(file));
  if (parsed.success) return parsed.data;
  throw new EspalierError(
    "resume-mismatch",
    `${file} does not say what the run was started with (${parsed.error.issues[0]!.path.join(".")}). Start a new run with another --run.`,
  );
}

/** A resumed run gives the numbers of an uninterrupted one, so its options must be the same, */
function refuseOtherOptions(run: string, flags: Readonly<Record<string, unknown>>): void {
  const { options } = recorded(join(run, "run.json"));
  const changed = Object.keys(runOptions).filter((key) => !isFree(key) && JSON.stringify(options[key]) !== JSON.stringify(flags[key]));
  if (changed.length === 0) return;
  const list = fewProblems(changed.map((key) => `${flagName(key)} was ${given(options[key])} and is now ${given(flags[key])}`));
  throw new EspalierError("resume-mismatch", `${run} cannot be resumed with other options: ${list.join("; ")}. ${advice}`);
}

/** and what it starts from. */
function refuseOtherInputs(run: string, flags: Readonly<Record<string, unknown>>, now: RunInputs): void {
  const { options, sha256, files } = recorded(join(run, "run.json"));
  for (const [name, what] of Object.entries({ data: "data", evalData: "held-out data", model: "base model" }) as [
    keyof Fingerprints,
    string,
  ][]) {
    if (sha256[name] === now.sha256[name]) continue;
    const describe = (of: Readonly<Record<string, unknown>>, hash: Fingerprints) =>
      `${of[name] === undefined ? "none" : typeof of[name] === "string" ? of[name] : show(of[name])} (sha256 ${hash[name] ?? "none"})`;
    throw new EspalierError(
      "resume-mismatch",
      `${run} cannot be resumed with other ${what}: it was started with ${describe(options, sha256)}, and now there is ${describe(flags, now.sha256)}.${name === "model" ? "" : changes(files[name], now.files[name])} ${advice}`,
    );
  }
}

/** Which files differ; empty where that is not known. */
function changes(before: DataFiles | undefined, now: DataFiles | undefined): string {
  if (!before || !now) return "";
  const size = ({ sha256, bytes }: DataFiles[string]) => `${bytes} bytes, ${sha256.slice(0, 8)}…`;
  const list = [...new Set([...Object.keys(before), ...Object.keys(now)])].flatMap((name) => {
    const [old, present] = [before[name], now[name]];
    if (!old) return [`${name} is new (${size(present!)})`];
    if (!present) return [`${name} is gone (${size(old)})`];
    return old.sha256 === present.sha256 ? [] : [`${name} was ${size(old)} and is now ${size(present)}`];
  });
  return list.length === 0 ? "" : ` ${fewProblems(list).join("; ")}.`;
}

const given = (value: unknown): string => (value === undefined ? "not given" : show(value));
