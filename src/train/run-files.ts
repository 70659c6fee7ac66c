import { existsSync, readdirSync, realpathSync, rmdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";

/** What a run writes, by folder ("" is the run directory itself). Whatever else lies there belongs to the user. */
const written: Readonly<Record<string, RegExp>> = {
  "": /^(run\.json|metrics\.jsonl|report\.md|loss\.svg|events\.out\.tfevents\.\d{10}\.espalier)$/,
  checkpoints: /^step-\d+$/,
  adapter: /^(adapter_config\.json|adapter_model\.safetensors|espalier\.json)$/,
  profile: /^(table\.md|trace\.json)$/,
  "trained-model": /^(.+\.json|model\.safetensors|tokenizer\.model|vocab\.txt|merges\.txt|chat_template\.jinja|licen[cs]e.*)$/i,
};

/** What a killed run may have left unfinished in the same folders: files on their way (`.name.<hex>.tmp`) and checkpoints (`.step-N.tmp`). */
const unfinished = /^\.(?:(.+)\.[0-9a-f]{12}|(step-\d+))\.tmp$/;

function list(run: string, matches: (name: string, pattern: RegExp) => boolean): string[] {
  return Object.entries(written).flatMap(([folder, pattern]) => {
    const directory = join(run, folder);
    if (!existsSync(directory)) return [];
    return readdirSync(directory)
      .filter((name) => matches(name, pattern))
      .map((name) => join(directory, name));
  });
}

const ownFiles = (run: string): string[] => list(run, (name, pattern) => pattern.test(name));

/** Whether a run was begun in this directory. */
export const holdsRun = (run: string): boolean => ownFiles(run).length > 0;

/** Whether {@link clearRun} would take something out of this directory. */
export const clearingTouches = (run: string, directory: string): boolean =>
  ownFiles(run).some((path) => realpathSync(dirname(path)) === realpathSync(directory));

/** Removes what a killed run left unfinished. Only for the one process that is about to write there. */
export function sweepRun(run: string): void {
  const isUnfinished = (name: string, pattern: RegExp) => {
    const [, file, checkpoint] = unfinished.exec(name) ?? [];
    return pattern.test(file ?? checkpoint ?? "");
  };
  for (const path of list(run, isUnfinished)) rmSync(path, { recursive: true, force: true });
}

/** Removes a run, and nothing that a run did not write. */
export function clearRun(run: string): void {
  sweepRun(run);
  for (const path of ownFiles(run)) rmSync(path, { recursive: true, force: true });
  for (const folder of Object.keys(written).filter(Boolean)) {
    const directory = join(run, folder);
    // A folder in which something of the user's remains stays.
    if (existsSync(directory) && readdirSync(directory).length === 0) rmdirSync(directory);
  }
}
