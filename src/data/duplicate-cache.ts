import { createHash } from "node:crypto";
import { readFileSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomically } from "../checkpoints/index.ts";
import { contentKeyOf, prepareCache } from "./cache-directory.ts";
import { nearDuplicateGroups } from "./near-duplicates.ts";
import type { TokenCacheOptions } from "./token-cache.ts";

/** Raised when the same texts give other groups. */
const version = "1";
/** Fewer characters are compared sooner than a file is written. */
const worthKeeping = 2 ** 20;
const sumBytes = 32;

/** {@link nearDuplicateGroups}, which for many texts takes seconds, from the cache where these texts were compared before. */
export function cachedDuplicateGroups(texts: readonly string[], options: TokenCacheOptions = {}): readonly number[] {
  const search = () => nearDuplicateGroups(texts, undefined, options.onProgress);
  const worth = texts.reduce((sum, text) => sum + text.length, 0) >= worthKeeping;
  const directory = worth ? prepareCache(options) : undefined;
  if (directory === undefined) return search();
  const path = join(directory, `${contentKeyOf(["near-duplicates", version, ...texts])}.groups`);
  const known = readGroups(path, texts.length, options);
  if (known) return known;
  const groups = search();
  const bytes = new Uint8Array(Uint32Array.from(groups).buffer);
  writeFileAtomically(path, (append) => {
    append(sumOf(bytes));
    append(bytes);
  });
  return groups;
}

const sumOf = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();

function readGroups(path: string, count: number, { onNotice }: TokenCacheOptions): number[] | undefined {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch {
    return undefined; // not there yet
  }
  const bytes = Uint8Array.prototype.slice.call(file, sumBytes);
  if (bytes.length === count * 4 && sumOf(bytes).equals(file.subarray(0, sumBytes))) {
    utimesSync(path, new Date(), new Date()); // in use, hence not old
    return Array.from(new Uint32Array(bytes.buffer));
  }
  onNotice?.(`${path}: is damaged. It is made again.`);
  return undefined;
}
