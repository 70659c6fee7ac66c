/**
 * Quantised values → float32. A block of each format, in the order of its bytes, with the value of element i:
 *
 * | type | values | block                                                              | value                                   |
 * |------|-------:|--------------------------------------------------------------------|-----------------------------------------|
 * | Q8_0 |     32 | f16 d, 32 × i8 q                                                   | d·qᵢ                                    |
 * | Q4_0 |     32 | f16 d, 16 bytes of nibbles                                         | d·(qᵢ − 8)                              |
 * | Q4_1 |     32 | f16 d, f16 m, 16 bytes of nibbles                                  | d·qᵢ + m                                |
 * | Q5_0 |     32 | f16 d, 32 fifth bits, 16 bytes of nibbles                          | d·(qᵢ − 16)                             |
 * | Q5_1 |     32 | f16 d, f16 m, 32 fifth bits, 16 bytes of nibbles                   | d·qᵢ + m                                |
 * | Q4_K |    256 | f16 d, f16 m, 12 bytes of 8 six-bit scales s and minima t, 128 bytes of nibbles | d·s·qᵢ − m·t               |
 * | Q5_K |    256 | f16 d, f16 m, the same 12 bytes, 32 bytes of fifth bits, 128 bytes of nibbles   | d·s·qᵢ − m·t               |
 * | Q6_K |    256 | 128 bytes of low nibbles, 64 of upper bit pairs, 16 × i8 scale s, f16 d         | d·s·(qᵢ − 32)              |
 *
 * In the blocks of 32, byte j holds element j in its low nibble and element j + 16 in its high one. In Q4_K and Q5_K, each 32 bytes hold 64
 * elements: the low nibbles 32 of one scale, the high nibbles the 32 of the next. All arithmetic is exact but for one last rounding to
 * float32, so the values are the reference's bit for bit.
 */

import { float16ToFloat32 } from "../../graph/dtype-conversion.ts";
import { EspalierError } from "../../graph/errors.ts";
import type { GgmlType } from "./ggml-types.ts";

/** Writes the values of the block at `at` to `out` from `to` on. */
type BlockReader = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

let halves: Float32Array | undefined;

/** The float16 at `at`, from a table of all of them. */
function half(bytes: Uint8Array, at: number): number {
  halves ??= float16ToFloat32(Uint16Array.from({ length: 0x10000 }, (_, pattern) => pattern));
  return halves[bytes[at]! | (bytes[at + 1]! << 8)]!;
}

const signed = (byte: number): number => (byte << 24) >> 24;

const q8_0: BlockReader = (bytes, at, out, to) => {
  const d = half(bytes, at);
  for (let i = 0; i < 32; i++) out[to + i] = d * signed(bytes[at + 2 + i]!);
};

/** The four formats of 32 nibbles: d·(q − zero) + m, with a fifth bit or without. */
const nibbles = (options: { minimum: boolean; fifthBit: boolean }): BlockReader => {
  const zero = options.minimum ? 0 : options.fifthBit ? 16 : 8;
  const bitsAt = options.minimum ? 4 : 2;
  const nibblesAt = bitsAt + (options.fifthBit ? 4 : 0);
  return (bytes, at, out, to) => {
    const d = half(bytes, at);
    // Adding −0 changes nothing, not even the sign of a zero.
    const m = options.minimum ? half(bytes, at + 2) : -0;
    for (let j = 0; j < 16; j++) {
      const byte = bytes[at + nibblesAt + j]!;
      let [low, high] = [byte & 15, byte >> 4];
      if (options.fifthBit) {
        low |= ((bytes[at + bitsAt + (j >> 3)]! >> (j & 7)) & 1) << 4;
        high |= ((bytes[at + bitsAt + 2 + (j >> 3)]! >> (j & 7)) & 1) << 4;
      }
      out[to + j] = d * (low - zero) + m;
      out[to + j + 16] = d * (high - zero) + m;
    }
  };
};

/** Scale and minimum number `j` of the 12 bytes at `at`: the first four of each in bytes 0–3 and 4–7, the rest in pieces in 8–11 and the top bits. */
function sixBits(bytes: Uint8Array, at: number, j: number): [scale: number, minimum: number] {
  if (j < 4) return [bytes[at + j]! & 63, bytes[at + j + 4]! & 63];
  const low = bytes[at + j + 4]!;
  return [(low & 15) | ((bytes[at + j - 4]! >> 6) << 4), (low >> 4) | ((bytes[at + j]! >> 6) << 4)];
}

const superBlock =
  (fifthBit: boolean): BlockReader =>
  (bytes, at, out, to) => {
    const d = half(bytes, at);
    const m = half(bytes, at + 2);
    const nibblesAt = at + 16 + (fifthBit ? 32 : 0);
    for (let part = 0; part < 8; part++) {
      const [s, t] = sixBits(bytes, at + 4, part);
      const [scale, minimum] = [d * s, m * t];
      const shift = part % 2 === 0 ? 0 : 4;
      const from = nibblesAt + 32 * (part >> 1);
      for (let i = 0; i < 32; i++) {
        let q = (bytes[from + i]! >> shift) & 15;
        if (fifthBit) q |= ((bytes[at + 16 + i]! >> part) & 1) << 4;
        out[to + 32 * part + i] = scale * q - minimum;
      }
    }
  };

const q6_k: BlockReader = (bytes, at, out, to) => {
  const d = half(bytes, at + 208);
  for (let part = 0; part < 8; part++) {
    // Four parts share 64 bytes of nibbles (two in the low, two in the high) and 32 of bit pairs.
    const [group, quarter] = [part >> 2, part & 3];
    const lowAt = at + 64 * group + 32 * (quarter & 1);
    const highAt = at + 128 + 32 * group;
    for (let i = 0; i < 32; i++) {
      const q = ((bytes[lowAt + i]! >> (quarter < 2 ? 0 : 4)) & 15) | (((bytes[highAt + i]! >> (2 * quarter)) & 3) << 4);
      out[to + 32 * part + i] = d * signed(bytes[at + 192 + 2 * part + (i >> 4)]!) * (q - 32);
    }
  }
};

const readers: Readonly<Record<string, BlockReader>> = {
  Q8_0: q8_0,
  Q4_0: nibbles({ minimum: false, fifthBit: false }),
  Q4_1: nibbles({ minimum: true, fifthBit: false }),
  Q5_0: nibbles({ minimum: false, fifthBit: true }),
  Q5_1: nibbles({ minimum: true, fifthBit: true }),
  Q4_K: superBlock(false),
  Q5_K: superBlock(true),
  Q6_K: q6_k,
};

/**
 * The values of whole blocks of a quantised type.
 *
 * @throws EspalierError `checkpoint-dtype` for a type that is not quantised, `checkpoint-shape` for a part of a block
 */
export function dequantize(type: GgmlType, bytes: Uint8Array): Float32Array {
  const read = readers[type.name];
  if (!read) throw new EspalierError("checkpoint-dtype", `${type.name} is not a quantised type. Use ${Object.keys(readers).join(", ")}.`);
  const blocks = bytes.length / type.blockBytes;
  if (!Number.isInteger(blocks))
    throw new EspalierError(
      "checkpoint-shape",
      `${bytes.length} bytes are not whole blocks of ${type.name}, which take ${type.blockBytes} each.`,
    );
  const out = new Float32Array(blocks * type.blockSize);
  for (let block = 0; block < blocks; block++) read(bytes, block * type.blockBytes, out, block * type.blockSize);
  return out;
}
