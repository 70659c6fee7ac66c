import { EspalierError } from "../../graph/index.ts";
import type { DataOption } from "../data-sources.ts";
import { recordedOptions } from "../run-choice.ts";
import { type LoadedConfig, loadConfig } from "./load-config.ts";
import { type RunConfig, type RunOptions, runSchema } from "./run-options.ts";

/** The options of one call of `espalier train`: those of the run, and what to do with a run that the directory holds. */
export interface TrainFlags extends RunOptions {
  data: DataOption;
  resume?: boolean;
  replace?: boolean;
}

/** What was given to the command: the run's options as far as they were, and which configuration to read (false: none). */
export interface GivenFlags extends RunConfig {
  config?: string | false;
  /** A run, or true for that of --run. */
  resume?: string | true;
  replace?: boolean;
}

/** A flag wins over the configuration, that over what a resumed run was started with, and that over the defaults. */
export async function resolveRun(given: GivenFlags): Promise<{ flags: TrainFlags; config: LoadedConfig | undefined }> {
  const { config: file, resume, replace, ...flags } = given;
  const config = file === false ? undefined : await loadConfig(file);
  if (typeof resume === "string") {
    if (flags.run !== undefined && flags.run !== resume)
      throw new EspalierError("bad-option", `--resume names the run ${resume} and --run another one, ${flags.run}. Leave --run out.`);
    flags.run = resume;
  }
  const run = flags.run ?? config?.config.run;
  const recorded: RunConfig = resume && run !== undefined ? recordedOptions(run) : {};
  const configured = { ...config?.config };
  if (flags.epochs !== undefined) delete configured.steps; // either says how long
  const merged = { ...recorded, ...configured, ...flags };
  if (merged.data === undefined)
    throw new EspalierError("no-data", "There is no training data: give --data <file>, or data in an espalier.config.ts.");
  const options = runSchema.parse(merged);
  return { flags: { ...options, data: merged.data, ...(resume && { resume: true }), ...(replace && { replace }) }, config };
}
