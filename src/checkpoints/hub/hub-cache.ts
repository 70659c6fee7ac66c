/**
 * A repository in the cache that huggingface_hub and what is built on it share:
 *
 *     models--org--name/refs/main                        the commit that a branch or tag was last seen at
 *     models--org--name/blobs/<hash>                     the bytes of a file, once
 *     models--org--name/snapshots/<commit>/config.json   a link to them
 */

import { randomBytes } from "node:crypto";
import {
  copyFileSync,
  linkSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  type Stats,
  statfsSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";
import { EspalierError } from "../../graph/errors.ts";
import { writeFileAtomically } from "../atomic-file.ts";
import { makeDirectory } from "../hf-directory.ts";
import { isCommit } from "./hub-id.ts";

export class HubCache {
  /** `…/models--org--name`. */
  readonly root: string;
  readonly #locks: string;

  constructor(cache: string, repo: string) {
    const name = `models--${repo.replaceAll("/", "--")}`;
    this.root = join(cache, name);
    this.#locks = join(cache, ".locks", name);
  }

  blob(hash: string): string {
    return join(this.root, "blobs", hash);
  }

  /** What has arrived of a blob. */
  partial(hash: string): string {
    return `${this.blob(hash)}.incomplete`;
  }

  /** Of our own: huggingface_hub's lock files stay after use, and ours must not be taken for them. */
  lock(hash: string): string {
    return join(this.#locks, `${hash}.espalier.lock`);
  }

  snapshot(commit: string): string {
    return join(this.root, "snapshots", commit);
  }

  /** Makes the directories that blobs and their locks lie in. */
  prepare(): void {
    makeDirectory(join(this.root, "blobs"));
    makeDirectory(this.#locks);
  }

  /** The commit that a revision was last seen at, if it is known here. */
  commitOf(revision: string): string | undefined {
    if (isCommit(revision)) return statsOf(this.snapshot(revision)) ? revision : undefined;
    try {
      const commit = readFileSync(join(this.root, "refs", revision), "utf8").trim();
      return isCommit(commit) ? commit : undefined;
    } catch {
      return undefined;
    }
  }

  /** Remembers where a branch or tag stands. Nothing is written when that is known: a shared cache may be read-only. */
  setCommit(revision: string, commit: string): void {
    if (isCommit(revision) || this.commitOf(revision) === commit) return;
    const file = join(this.root, "refs", revision);
    makeDirectory(dirname(file));
    writeFileAtomically(file, (append) => append(new TextEncoder().encode(commit)));
  }

  /** The files of a snapshot that are really there, by path. */
  files(commit: string): string[] {
    const root = this.snapshot(commit);
    return readdirSync(root, { recursive: true, encoding: "utf8" })
      .filter((name) => statsOf(join(root, name))?.isFile())
      .map((name) => name.replaceAll("\\", "/"));
  }

  /** Whether a snapshot's file is there in full. */
  has(commit: string, name: string, size: number): boolean {
    return sizeOf(join(this.snapshot(commit), name)) === size;
  }

  hasBlob(hash: string, size: number): boolean {
    return sizeOf(this.blob(hash)) === size;
  }

  /** Puts a blob into a snapshot: as a symbolic link, a hard link where there are none (as on most Windows machines), or else a copy. */
  place(commit: string, name: string, hash: string): void {
    const path = join(this.snapshot(commit), name);
    makeDirectory(dirname(path));
    const temporary = join(dirname(path), `.${randomBytes(6).toString("hex")}.tmp`);
    try {
      try {
        symlinkSync(relative(dirname(path), this.blob(hash)), temporary);
      } catch {
        try {
          linkSync(this.blob(hash), temporary);
        } catch {
          copyFileSync(this.blob(hash), temporary);
        }
      }
      renameSync(temporary, path); // also over a link whose blob is gone
    } catch (cause) {
      rmSync(temporary, { force: true });
      throw cacheFailure(path, cause);
    }
  }

  /** @throws EspalierError `disk-full` when what is still to come of these blobs does not fit */
  checkSpace(blobs: readonly { hash: string; size: number }[]): void {
    const bytes = blobs.reduce((sum, { hash, size }) => sum + Math.max(0, size - (sizeOf(this.partial(hash)) ?? 0)), 0);
    let free: number;
    try {
      const { bavail, bsize } = statfsSync(this.root);
      free = bavail * bsize;
    } catch {
      return; // not every file system tells
    }
    if (free >= bytes) return;
    const [need, have] = [bytes, free].map((n) => `${(n / 1e9).toFixed(n < 1e9 ? 3 : 1)} GB`);
    throw new EspalierError(
      "disk-full",
      `${this.root}: the download needs ${need}, and the disk has ${have} left. Free some space, or set HF_HOME to a directory on another disk.`,
    );
  }
}

const sizeOf = (path: string): number | undefined => {
  const stats = statsOf(path);
  return stats?.isFile() ? stats.size : undefined;
};

/** What cannot be looked at is not there; why becomes clear when it is written. */
function statsOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** What it means that a file of the cache cannot be written. */
export function cacheFailure(path: string, cause: unknown): unknown {
  if (cause instanceof EspalierError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === "ENOSPC" || code === "EDQUOT")
    return new EspalierError(
      "disk-full",
      `${path}: cannot be written, the disk or quota is full (${code}). What has arrived is kept, and the same command goes on from there: free some space first, or set HF_HOME to a directory on another disk.`,
      { cause },
    );
  if (typeof code !== "string") return cause; // an interruption, say
  return new EspalierError("not-writable", `${path}: cannot be written (${message}). Set HF_HOME to a directory that you may write to.`, {
    cause,
  });
}
