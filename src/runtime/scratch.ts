/** Directories for model files, gone when the process ends; those of killed processes are removed by the next one. */
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isRunning, processSpace } from "./process-identity.ts";

const made = new Set<string>();
let removesAtExit = false;

/** A new directory in `parent`, or undefined where none can be made. */
export function makeScratch(parent: string): string | undefined {
  removeAbandoned(parent);
  try {
    const directory = mkdtempSync(join(parent, `${scratchPrefix()}${process.pid}-`));
    if (!removesAtExit) {
      removesAtExit = true;
      process.on("exit", () => {
        for (const d of made) rmSync(d, { recursive: true, force: true });
      });
    }
    made.add(directory);
    return directory;
  } catch {
    return undefined;
  }
}

export function removeScratch(directory: string): void {
  made.delete(directory);
  rmSync(directory, { recursive: true, force: true });
}

let prefix: string | undefined;

/** What the names of this machine's directories begin with. */
export function scratchPrefix(): string {
  if (prefix === undefined) {
    const { host, boot, namespace } = processSpace();
    prefix = `.espalier-${createHash("sha256").update([host, boot, namespace].join("\n")).digest("hex").slice(0, 12)}-`;
  }
  return prefix;
}

/** Removes what killed processes left behind. That it fails is no reason not to go on. */
function removeAbandoned(parent: string): void {
  const own = scratchPrefix();
  for (const name of attempt(() => readdirSync(parent)) ?? []) {
    if (!name.startsWith(own)) continue;
    const pid = Number(/^\d+/.exec(name.slice(own.length))?.[0]);
    if (pid && !isRunning(pid)) attempt(() => rmSync(join(parent, name), { recursive: true, force: true }));
  }
}

function attempt<T>(fn: () => T): T | undefined {
  try {
    return fn();
  } catch {
    return undefined;
  }
}
