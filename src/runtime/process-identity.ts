/** Which process is meant by a number: one boot of one machine and one namespace of processes give it its meaning, and it is given again. */
import { readFileSync, statSync } from "node:fs";
import { hostname } from "node:os";

/** Where process ids mean the same. On a shared disk, or in a directory that a container mounts, the same number is another process. */
export interface ProcessSpace {
  host: string;
  /** Absent where the system does not say. */
  boot?: string;
  namespace?: number;
}

let space: ProcessSpace | undefined;

export function processSpace(): ProcessSpace {
  if (space) return space;
  const boot = attempt(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim());
  const namespace = attempt(() => statSync("/proc/self/ns/pid").ino);
  space = { host: hostname(), ...(boot !== undefined && { boot }), ...(namespace !== undefined && { namespace }) };
  return space;
}

/** When a process of this space began, in the kernel's ticks since the boot, whatever the clock says; undefined where the system does not say. */
export function processStart(pid: number): number | undefined {
  return attempt(() => Number(statFields(pid)[21 - 2])) || undefined;
}

/** Whether a process of this space runs: the one that began at `start`, if that is known, and not another of the same number. */
export function isRunning(pid: number, start?: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const fields = attempt(() => statFields(pid));
  // It was killed, and its parent has not asked how it ended.
  if (fields && /[ZX]/.test(fields[0]!)) return false;
  return start === undefined || fields === undefined || processStart(pid) === start;
}

/** The fields of /proc/<pid>/stat from the third on: the second is the program's name, which may hold anything. */
function statFields(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

function attempt<T>(fn: () => T): T | undefined {
  try {
    return fn();
  } catch {
    return undefined;
  }
}
