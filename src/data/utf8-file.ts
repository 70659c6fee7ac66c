import { readFileSync, statSync } from "node:fs";
import { EspalierError } from "../graph/index.ts";

/** A string of V8 holds no more; and who has more text than that wants it in parts anyway. */
const largestFile = 500 * 2 ** 20;

/** The text of a UTF-8 file, without the byte-order mark that some editors write. Bytes that are no UTF-8 are refused, not replaced. */
export function readUtf8File(file: string): string {
  let bytes: Uint8Array;
  try {
    const { size } = statSync(file);
    if (size > largestFile)
      throw new EspalierError(
        "data-too-large",
        `${file} has ${Math.ceil(size / 2 ** 20)} MB; at most ${largestFile / 2 ** 20} MB can be read at once. Split the file.`,
      );
    bytes = readFileSync(file);
  } catch (cause) {
    if (cause instanceof EspalierError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new EspalierError("data-missing", `${file}: there is no such file. Check the path.`, { cause });
    if (code === "EISDIR") throw new EspalierError("data-missing", `${file} is a directory. Name a file in it.`, { cause });
    throw new EspalierError("data-unreadable", `${file} cannot be read (${message}).`, { cause });
  }
  return decodeUtf8(bytes, file);
}

/** @param name what messages call the bytes */
export function decodeUtf8(bytes: Uint8Array, name: string): string {
  const isUtf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
  if (isUtf16) throw new EspalierError("data-encoding", `${name} is UTF-16 by its first two bytes. Save it as UTF-8.`);
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  const offset = firstInvalidByte(bytes, text);
  if (offset === undefined) return text.replace(/^\ufeff/, "");
  const line = lineAt(bytes, offset);
  const byte = bytes[offset]!.toString(16).padStart(2, "0");
  throw new EspalierError(
    "data-encoding",
    `${name} line ${line}: byte ${offset} (0x${byte}) is not valid UTF-8. Save the file as UTF-8; it may be Windows-1252 or Latin-1 now.`,
  );
}

/** The decoder writes U+FFFD for what it cannot read: the first one that does not stand in the bytes themselves marks the place. */
function firstInvalidByte(bytes: Uint8Array, text: string): number | undefined {
  const encoder = new TextEncoder();
  let offset = 0;
  let from = 0;
  for (let at = text.indexOf("\ufffd"); at >= 0; at = text.indexOf("\ufffd", from)) {
    offset += encoder.encode(text.slice(from, at)).length;
    if (bytes[offset] !== 0xef || bytes[offset + 1] !== 0xbf || bytes[offset + 2] !== 0xbd) return offset;
    offset += 3;
    from = at + 1;
  }
  return undefined;
}

function lineAt(bytes: Uint8Array, offset: number): number {
  let line = 1;
  for (let i = 0; i < offset; i++) if (bytes[i] === 0x0a) line++;
  return line;
}
