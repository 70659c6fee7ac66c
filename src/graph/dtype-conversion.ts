/**
 * Between 16-bit floats, which checkpoints store, and float32, which computes. Widening is exact; narrowing rounds to the nearest,
 * ties to even, as every other library does; NaN stays NaN (made quiet), and what is too large becomes infinity.
 *
 * `bfloat16` is the upper half of a float32; `float16` has 5 exponent and 10 mantissa bits. Both travel as raw patterns in a Uint16Array.
 */
import type { DType, TypedArray } from "./dtype.ts";
import { EspalierError } from "./errors.ts";

/** `into`, here and below, takes the values where they need no array of their own: one buffer then serves many conversions. */
export function bfloat16ToFloat32(patterns: Uint16Array, into: Float32Array = new Float32Array(patterns.length)): Float32Array {
  const bits = new Uint32Array(into.buffer, into.byteOffset, patterns.length);
  for (let i = 0; i < patterns.length; i++) bits[i] = patterns[i]! << 16;
  return into;
}

export function float32ToBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const patterns = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i]!;
    // Adding just under half, plus the bit that stays last, carries upward exactly when round-half-to-even does. A NaN must not carry into the sign.
    patterns[i] = (x & 0x7fffffff) > 0x7f800000 ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return patterns;
}

export function float16ToFloat32(patterns: Uint16Array, into: Float32Array = new Float32Array(patterns.length)): Float32Array {
  const bits = new Uint32Array(into.buffer, into.byteOffset, patterns.length);
  for (let i = 0; i < patterns.length; i++) {
    const x = patterns[i]!;
    const sign = (x & 0x8000) << 16;
    if ((x & 0x7c00) === 0x7c00) {
      bits[i] = sign | 0x7f800000 | ((x & 0x3ff) << 13);
    } else {
      // The pattern in float32's place reads 2^112 times too small; one exact product also normalises the subnormals.
      bits[i] = (x & 0x7fff) << 13;
      into[i] = into[i]! * 2 ** 112;
      bits[i] = bits[i]! | sign;
    }
  }
  return into;
}

export function float32ToFloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const patterns = new Uint16Array(values.length);
  const scratch = new Float32Array(1);
  const scratchBits = new Uint32Array(scratch.buffer);
  for (let i = 0; i < bits.length; i++) {
    const sign = (bits[i]! >>> 16) & 0x8000;
    const x = bits[i]! & 0x7fffffff;
    let rounded: number;
    if (x >= 0x47800000) {
      // 65536 and more, infinity and NaN.
      rounded = x > 0x7f800000 ? 0x7e00 | ((x >>> 13) & 0x3ff) : 0x7c00;
    } else if (x >= 0x38800000) {
      rounded = (x - 0x38000000 + 0xfff + ((x >>> 13) & 1)) >>> 13;
    } else {
      // Below 2^-14 halves are spaced 2^-24, as float32 is from 0.5 on: adding 0.5 rounds there for us.
      scratch[0] = Math.abs(values[i]!) + 0.5;
      rounded = scratchBits[0]! - 0x3f000000;
    }
    patterns[i] = sign | rounded;
  }
  return patterns;
}

/** Any floating-point array as float32; a float32 array is returned as it is. */
export function toFloat32(dtype: DType, values: TypedArray, into?: Float32Array): Float32Array {
  if (dtype === "float32") return values as Float32Array;
  if (dtype === "bfloat16") return bfloat16ToFloat32(values as Uint16Array, into);
  if (dtype === "float16") return float16ToFloat32(values as Uint16Array, into);
  if (dtype !== "float64") throw notFloat(dtype, "float32");
  const rounded = into ?? new Float32Array(values.length);
  rounded.set(values as Float64Array);
  return rounded;
}

/** A float32 array as `dtype`; as float32 it is returned as it is. */
export function fromFloat32(dtype: DType, values: Float32Array): TypedArray {
  if (dtype === "float32") return values;
  if (dtype === "bfloat16") return float32ToBfloat16(values);
  if (dtype === "float16") return float32ToFloat16(values);
  if (dtype === "float64") return Float64Array.from(values);
  throw notFloat("float32", dtype);
}

/** Any floating-point array as `to`, by way of float32; one that is so already is returned as it is, whatever its type. */
export function convertFloats(values: TypedArray, from: DType, to: DType, into?: Float32Array): TypedArray {
  return from === to ? values : fromFloat32(to, toFloat32(from, values, into));
}

const notFloat = (from: DType, to: DType) =>
  new EspalierError(
    "dtype-conversion",
    `${from} values are not converted to ${to}: only float32, float16, bfloat16 and float64 are. Check the dtype.`,
  );
