import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { environmentPath } from "../checkpoints/hub/hub-environment.ts";

/** Files that nobody has used for so long are removed when another is written. */
const keepDays = 60;

export interface CacheOptions {
  /** Where prepared data are kept; `false` keeps nothing. Default: see {@link cacheDirectory}. */
  cache?: string | false;
  /** Is told what happened to the cache, in a sentence: a damaged file, a directory that cannot be written. */
  onNotice?: (message: string) => void;
}

/** `$ESPALIER_CACHE/data`, else `$XDG_CACHE_HOME/espalier/data`, else `~/.cache/espalier/data`. It may be removed at any time. */
export function cacheDirectory(): string {
  const own = environmentPath("ESPALIER_CACHE");
  return resolve(own ?? join(environmentPath("XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "espalier"), "data");
}

/** The name of what was made from these parts. */
export const contentKey = (...parts: readonly (string | Uint8Array)[]): string => contentKeyOf(parts);

/** {@link contentKey} of more parts than a call has room for. */
export function contentKeyOf(parts: Iterable<string | Uint8Array>): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part.length}\n`).update(part);
  return hash.digest("hex");
}

/** Makes the directory and removes what is old there; false where it cannot be written. */
export function prepareCache({ cache = cacheDirectory(), onNotice }: CacheOptions): string | undefined {
  if (cache === false) return undefined;
  try {
    mkdirSync(cache, { recursive: true });
    for (const name of readdirSync(cache)) {
      // A temporary file of a process that is at work is younger than a day.
      const days = name.endsWith(".tmp") ? 1 : keepDays;
      const path = join(cache, name);
      const stats = statSync(path, { throwIfNoEntry: false });
      if (stats?.isFile() && Date.now() - stats.mtimeMs > days * 86_400_000) rmSync(path, { force: true });
    }
    return cache;
  } catch (error) {
    onNotice?.(
      `${cache}: cannot be written (${(error as Error).message}), so that prepared data are not kept. ESPALIER_CACHE names another directory.`,
    );
    return undefined;
  }
}
