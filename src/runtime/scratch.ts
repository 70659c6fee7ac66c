/** Directories for model files, gone when the process ends; those of killed processes are removed by the next one. */
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";

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

/**
 * What the names of this machine's directories begin with. A process id means something only within one boot of one machine and one namespace of
 * processes: on a shared disk, or in a directory that a container mounts, the same number is another process.
 */
export function scratchPrefix(): string {
  if (prefix === undefined) {
    const where = [
      hostname(),
      attempt(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8")),
      attempt(() => statSync("/proc/self/ns/pid").ino),
    ];
    prefix = `.espalier-${createHash("sha256").update(where.join("\n")).digest("hex").slice(0, 12)}-`;
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

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function attempt<T>(fn: () => T): T | undefined {
  try {
    return fn();
  } catch {
    return undefined;
  }
}
