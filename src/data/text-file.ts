import { constants } from "node:buffer";
import { readFileSync, type Stats, statSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { EspalierError } from "../graph/errors.ts";

/** The whole of a UTF-8 file, compressed if it is named .gz, with `\n` between lines and without a byte-order mark. A byte that is not UTF-8 is an error rather than a silent U+FFFD in the data. */
export function readTextFile(file: string): string {
  const bytes = file.toLowerCase().endsWith(".gz") ? decompress(file) : readBytes(file);
  const offset = firstInvalidByte(bytes);
  if (offset >= 0) {
    const byte = bytes[offset]!.toString(16).padStart(2, "0");
    const hint = offset === 0 && bytes[0]! >= 0xfe ? " (it looks like UTF-16)" : "";
    throw new EspalierError(
      "data-utf8",
      `${file}: is not UTF-8: byte 0x${byte} at offset ${offset} (line ${lineOf(bytes, offset)}) fits no character${hint}. Save the file as UTF-8.`,
    );
  }
  // One line end, so that the same text gives the same tokens wherever it was saved.
  return new TextDecoder().decode(bytes).replace(/\r\n?/g, "\n");
}

/** What stands at a path, nothing where it cannot be looked at. */
export function statsOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** Refuses what is no data file before its format matters: nothing there, a directory, something without an end. */
export function statFile(file: string): Stats {
  let stats: Stats;
  try {
    stats = statSync(file);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new EspalierError("data-missing", `${file}: there is no such file. Check the path.`, { cause });
    throw new EspalierError("data-unreadable", `${file}: cannot be read (${message}). Check the path and its permissions.`, { cause });
  }
  if (stats.isDirectory()) {
    throw new EspalierError(
      "data-directory",
      `${file}: is a directory, not a file. Name the data file in it (.jsonl, .csv, .parquet or .txt).`,
    );
  }
  return stats;
}

function readBytes(file: string): Uint8Array {
  const { size } = statFile(file);
  if (size > constants.MAX_STRING_LENGTH) {
    const megabytes = (bytes: number) => Math.round(bytes / 2 ** 20);
    throw new EspalierError(
      "data-too-large",
      `${file}: holds ${megabytes(size)} MiB, and at most ${megabytes(constants.MAX_STRING_LENGTH)} MiB can be read at once. Split it into smaller files, or have it read piece by piece (--streaming).`,
    );
  }
  try {
    return readFileSync(file);
  } catch (cause) {
    const { message } = cause as Error;
    throw new EspalierError("data-unreadable", `${file}: cannot be read (${message}). Check the path and its permissions.`, { cause });
  }
}

function decompress(file: string): Uint8Array {
  try {
    return gunzipSync(readBytes(file), { maxOutputLength: constants.MAX_STRING_LENGTH });
  } catch (cause) {
    if (cause instanceof EspalierError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ERR_BUFFER_TOO_LARGE")
      throw new EspalierError(
        "data-too-large",
        `${file}: is too large to be decompressed in memory. Decompress it (gunzip), and it can be read as a stream.`,
        { cause },
      );
    throw new EspalierError(
      "data-gzip",
      `${file}: is no gzip file or is damaged (${message}). Compress it again, or give it as it is without .gz.`,
      { cause },
    );
  }
}

/** Offset of the first byte that begins no well-formed UTF-8 sequence (Unicode, table 3-7), −1 if there is none. */
export function firstInvalidByte(bytes: Uint8Array): number {
  const continues = (i: number, low = 0x80, high = 0xbf) => i < bytes.length && bytes[i]! >= low && bytes[i]! <= high;
  for (let i = 0; i < bytes.length; ) {
    const b = bytes[i]!;
    if (b < 0x80) i += 1;
    else if (b >= 0xc2 && b <= 0xdf && continues(i + 1)) i += 2;
    // The bounds of the second byte keep out overlong forms, surrogates and what lies above U+10FFFF.
    else if (b >= 0xe0 && b <= 0xef && continues(i + 1, b === 0xe0 ? 0xa0 : 0x80, b === 0xed ? 0x9f : 0xbf) && continues(i + 2)) i += 3;
    else if (
      b >= 0xf0 &&
      b <= 0xf4 &&
      continues(i + 1, b === 0xf0 ? 0x90 : 0x80, b === 0xf4 ? 0x8f : 0xbf) &&
      continues(i + 2) &&
      continues(i + 3)
    )
      i += 4;
    else return i;
  }
  return -1;
}

function lineOf(bytes: Uint8Array, offset: number): number {
  let line = 1;
  for (let i = 0; i < offset; i++) if (bytes[i] === 10) line++;
  return line;
}
