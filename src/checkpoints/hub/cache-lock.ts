/** One process at a time downloads a file; the others wait and find it there. Node has no flock, so the lock is a file that its holder touches. */
import { type FileHandle, open, rename, rm, stat, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

const touchMilliseconds = 5_000;
/** A holder that has not touched its lock for so long is gone, with its machine perhaps. */
const staleMilliseconds = 60_000;
const pollMilliseconds = 200;

/**
 * Runs `use` while holding the lock. One that is broken by mistake costs bandwidth, not files: what is downloaded is checked before it gets its name.
 *
 * @param onWait is called once if somebody else holds the lock
 */
export async function withLock<T>(
  path: string,
  use: () => Promise<T>,
  options: { onWait?: () => void; signal?: AbortSignal } = {},
): Promise<T> {
  let waited = false;
  while (!(await acquire(path))) {
    if (!waited) options.onWait?.();
    waited = true;
    if (!(await breakIfStale(path))) await sleep(pollMilliseconds, undefined, { signal: options.signal });
  }
  const touch = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => {}), touchMilliseconds);
  touch.unref();
  try {
    return await use();
  } finally {
    clearInterval(touch);
    await rm(path, { force: true });
  }
}

async function acquire(path: string): Promise<boolean> {
  let handle: FileHandle;
  try {
    handle = await open(path, "wx");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
  try {
    await handle.writeFile(JSON.stringify({ host: hostname(), pid: process.pid }));
  } finally {
    await handle.close();
  }
  return true;
}

/** Removes the lock of a process that is gone. Returns whether it is worth trying at once. */
async function breakIfStale(path: string): Promise<boolean> {
  try {
    const handle = await open(path);
    const [{ ino, mtimeMs }, text] = await Promise.all([handle.stat(), handle.readFile("utf8")]).finally(() => handle.close());
    if (Date.now() - mtimeMs < staleMilliseconds && !isOfDeadProcess(text)) return false;
    // Another waiter may have broken it and taken its place in between: then what was moved aside is not what was looked at, and goes back.
    const aside = `${path}.${process.pid}.${ino}`;
    await rename(path, aside);
    if ((await stat(aside)).ino !== ino) await rename(aside, path);
    else await rm(aside, { force: true });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return true;
    throw error;
  }
}

function isOfDeadProcess(text: string): boolean {
  try {
    const { host, pid } = JSON.parse(text) as { host?: unknown; pid?: unknown };
    if (host !== hostname() || typeof pid !== "number") return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH"; // text that is still being written proves nothing
  }
}
