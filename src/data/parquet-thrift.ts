/** The lengths that Parquet's Thrift structures (compact protocol) state, walked through before a parser allocates what they say. */

const deepest = 64;

/** Throws where the struct at `start` states more than there is. */
export function checkThrift(bytes: Uint8Array, start: number): void {
  let at = start;
  const byte = () => {
    if (at >= bytes.length) throw new Error("a structure does not end");
    return bytes[at++]!;
  };
  const varint = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      if (shift > 63) throw new Error("a number of more than 64 bits");
      const next = byte();
      value += (next & 0x7f) * 2 ** shift;
      if (next < 0x80) return value;
    }
  };
  const skip = (length: number) => {
    if (length > bytes.length - at) throw new Error(`${length} bytes or values are stated where ${bytes.length - at} bytes are left`);
    at += length;
  };
  const element = (type: number, depth: number): void => {
    if (depth > deepest) throw new Error(`structures nest deeper than ${deepest}`);
    if (type === 3) skip(1);
    else if (type >= 4 && type <= 6) varint();
    else if (type === 7) skip(8);
    else if (type === 8) skip(varint());
    else if (type === 9) {
      const head = byte();
      const size = head >> 4 === 15 ? varint() : head >> 4;
      // An element takes a byte at least.
      if (size > bytes.length - at) throw new Error(`a list of ${size} stands where ${bytes.length - at} bytes are left`);
      const inner = head & 15;
      for (let i = 0; i < size; i++) element(inner <= 2 ? 3 : inner, depth + 1);
    } else if (type === 12) {
      for (let head = byte(); (head & 15) !== 0; head = byte()) {
        if (head >> 4 === 0) varint();
        if ((head & 15) > 2) element(head & 15, depth + 1);
      }
    } else throw new Error(`values of the unknown type ${type}`);
  };
  element(12, 0);
}
