/**
 * The byte alphabet of GPT-2's byte-level BPE: each of the 256 bytes is written as one printable character, so that a vocabulary of
 * strings can hold any bytes. Printable Latin-1 stands for itself; the other 68 bytes take the code points from U+0100 on.
 */

/** `byteToChar[b]` is the character that stands for byte `b`. */
export const byteToChar: readonly string[] = (() => {
  const chars: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    chars.push(String.fromCharCode(printable ? byte : next++));
  }
  return chars;
})();

const charToByte = new Map(byteToChar.map((char, byte) => [char, byte]));
const encoder = new TextEncoder();

/** `"é "` → `"Ã©Ġ"`. Lone surrogates have no UTF-8 form and become U+FFFD, as `TextEncoder` defines. */
export function toByteLevel(text: string): string {
  let result = "";
  for (const byte of encoder.encode(text)) result += byteToChar[byte];
  return result;
}

/** The bytes a vocabulary entry stands for, or `undefined` when it is not written in the byte alphabet (a special token may not be). */
export function fromByteLevel(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = charToByte.get(token[i]!);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}
