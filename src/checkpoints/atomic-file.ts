import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { EspalierError } from "../graph/errors.ts";

/**
 * Writes a file so that a reader, a full disk, a crash or a power cut sees either the old file or the whole new one: a temporary
 * file beside it, flushed to the disk, renamed over it, and the rename flushed too. After a failure the old file is as it was and the
 * temporary file is gone.
 *
 * Synchronous on purpose: a Ctrl-C handler cannot run in the middle of it.
 *
 * @param fill is called once with a function that appends bytes
 */
export function writeFileAtomically(file: string, fill: (append: (bytes: Uint8Array) => void) => void): void {
  const target = new AtomicFile(file);
  try {
    fill((bytes) => target.append(bytes));
    target.commit();
  } catch (cause) {
    target.abandon();
    throw cause;
  }
}

/** {@link writeFileAtomically} for what takes long to make: whoever opens it either commits or abandons it. */
export class AtomicFile {
  readonly #path: string;
  readonly #temporary: string;
  #descriptor: number | undefined;

  constructor(file: string) {
    this.#path = resolve(file);
    this.#temporary = join(dirname(this.#path), `.${basename(this.#path)}.${randomBytes(6).toString("hex")}.tmp`);
    this.#descriptor = this.#attempt(() => openSync(this.#temporary, "wx"));
  }

  append(bytes: Uint8Array): void {
    this.#attempt(() => appendAll(this.#descriptor!, bytes));
  }

  commit(): void {
    this.#attempt(() => {
      fsyncSync(this.#descriptor!);
      closeSync(this.#descriptor!);
      this.#descriptor = undefined;
      renameSync(this.#temporary, this.#path);
    });
    flushDirectory(dirname(this.#path));
  }

  /** The old file is as it was, and the temporary one is gone. */
  abandon(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
    rmSync(this.#temporary, { force: true });
  }

  #attempt<T>(write: () => T): T {
    try {
      return write();
    } catch (cause) {
      this.abandon();
      throw describeWriteFailure(this.#path, cause as NodeJS.ErrnoException);
    }
  }
}

/** One `write` may take fewer bytes than it was given, as it does just before a disk is full. */
function appendAll(descriptor: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done, Math.min(bytes.length - done, 1 << 30));
}

/** Makes the rename itself survive a power cut. Windows and some network file systems cannot flush a directory; there the file is still whole. */
export function flushDirectory(directory: string): void {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(directory, "r");
    fsyncSync(descriptor);
  } catch {
    // The data is on the disk under its new name already: nothing is left to save.
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

function describeWriteFailure(path: string, cause: NodeJS.ErrnoException): EspalierError {
  const kept = "Nothing was changed there: a file of that name is as it was, and no temporary file is left.";
  switch (cause.code) {
    case "ENOSPC":
    case "EDQUOT":
      return new EspalierError(
        "disk-full",
        `${path}: cannot be written, the disk or quota is full (${cause.code}). ${kept} Free some space or write to another disk.`,
        {
          cause,
        },
      );
    case "EROFS":
    case "EACCES":
    case "EPERM":
      return new EspalierError(
        "not-writable",
        `${path}: cannot be written, its directory is read-only for you (${cause.code}). ${kept} Choose a directory that you may write to.`,
        { cause },
      );
    case "ENOENT":
    case "ENOTDIR":
      return new EspalierError("not-writable", `${path}: cannot be written, ${dirname(path)} is not a directory. Create it first.`, {
        cause,
      });
    default:
      return new EspalierError("not-writable", `${path}: cannot be written (${cause.message}). ${kept}`, { cause });
  }
}
