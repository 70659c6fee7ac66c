import { randomBytes } from "node:crypto";
import { constants, copyFileSync, existsSync, linkSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { EspalierError } from "../graph/index.ts";
import { isRunning, processSpace, processStart } from "../runtime/process-identity.ts";

/*
 * One process at a time writes to a run directory. The lock is a file that names its holder: process, start, boot, machine. A lock whose holder is gone is
 * taken over. Nothing is told by the age of a file, as locks that are touched again and again are: a clock may go backwards, and a training step
 * may keep the process from touching anything for minutes.
 */

export interface RunLock {
  release(): void;
}

const ownerSchema = z.object({
  pid: z.int().positive(),
  start: z.number().optional(),
  host: z.string(),
  boot: z.string().optional(),
  namespace: z.number().optional(),
  /** Tells this lock from all others. */
  nonce: z.string().regex(/^[0-9a-f]{12}$/),
});
type Owner = z.output<typeof ownerSchema>;

const lockFile = "run.lock";

/** What a process that was killed while it took a lock over may have left. */
const leftover = /^run\.lock\.[0-9a-f.]+(?:\.new)?$/;

/**
 * Locks a run directory for this process, until it is released or the process ends.
 *
 * @throws EspalierError `run-locked`, naming the process that holds it
 */
export function lockRun(directory: string): RunLock {
  const path = join(directory, lockFile);
  const release = acquire(path, directory);
  for (const name of readdirSync(directory)) {
    if (!leftover.test(name)) continue;
    const owner = ownerOf(join(directory, name));
    if (typeof owner === "object" && whereabouts(owner) === "gone") rmSync(join(directory, name), { force: true });
  }
  process.on("exit", release);
  return {
    release() {
      process.off("exit", release);
      release();
    },
  };
}

/** Refuses a directory that another process writes, as {@link lockRun} does, and leaves nothing behind. */
export function refuseLocked(directory: string): void {
  const path = join(directory, lockFile);
  const holder = ownerOf(path);
  if (typeof holder === "object") refuseLive(holder, path, directory);
}

/** Takes the lock at `path`; returns how to give it back. */
function acquire(path: string, directory: string): () => void {
  const nonce = randomBytes(6).toString("hex");
  const mine = `${path}.${nonce}.new`;
  const start = processStart(process.pid);
  const owner: Owner = { pid: process.pid, ...(start !== undefined && { start }), ...processSpace(), nonce };
  try {
    writeFileSync(mine, JSON.stringify(owner));
    while (!claim(mine, path)) {
      const holder = ownerOf(path);
      if (holder === "none") continue; // it was given back just now
      if (holder !== "unreadable") refuseLive(holder, path, directory);
      // Whoever holds the lock of that name may replace this very lock, and nobody else: so of two who find it stale, one takes it.
      const stale = nonceOf(holder);
      const releaseRight = acquire(`${path}.${stale}`, directory);
      try {
        const now = ownerOf(path);
        if (now !== "none" && nonceOf(now) === stale) {
          renameSync(mine, path);
          break;
        }
      } finally {
        releaseRight();
      }
    }
  } catch (cause) {
    if (cause instanceof EspalierError) throw cause;
    throw new EspalierError("not-writable", `${path}: cannot be written (${(cause as Error).message}). Give another run directory.`, {
      cause,
    });
  } finally {
    rmSync(mine, { force: true });
  }
  return () => {
    const now = ownerOf(path);
    if (typeof now === "object" && now.nonce === nonce) rmSync(path, { force: true });
  };
}

/** The file appears under its name with its content, or not at all. */
function claim(mine: string, path: string): boolean {
  try {
    try {
      linkSync(mine, path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") throw error;
      copyFileSync(mine, path, constants.COPYFILE_EXCL); // a file system without hard links
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

const nonceOf = (holder: Owner | "unreadable"): string => (holder === "unreadable" ? "0".repeat(12) : holder.nonce);

function ownerOf(path: string): Owner | "none" | "unreadable" {
  try {
    return ownerSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return existsSync(path) ? "unreadable" : "none";
  }
}

function whereabouts({ pid, start, host, boot, namespace }: Owner): "running" | "gone" | "elsewhere" {
  const here = processSpace();
  // A machine's name may change while it runs.
  const sameSpace = boot === here.boot && namespace === here.namespace && (boot !== undefined || host === here.host);
  if (sameSpace) return isRunning(pid, start) ? "running" : "gone";
  return host === here.host && boot !== here.boot ? "gone" : "elsewhere";
}

/** Returns when the holder is certainly gone. */
function refuseLive(owner: Owner, path: string, directory: string): void {
  const { pid, host } = owner;
  const where = whereabouts(owner);
  if (where === "gone") return;
  const elsewhere = where === "elsewhere";
  const who = elsewhere
    ? `process ${pid} of ${host === processSpace().host ? "another container" : host}, which cannot be asked from here`
    : pid === process.pid
      ? `another run in this process (${pid})`
      : `process ${pid}`;
  throw new EspalierError(
    "run-locked",
    `${directory} is being written by ${who}: two runs in one directory would destroy each other. Wait for it, or give another directory.${elsewhere ? ` If that process is gone, remove ${path}.` : ""}`,
  );
}
