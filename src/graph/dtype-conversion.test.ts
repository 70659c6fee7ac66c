import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { openSafetensors } from "../checkpoints/index.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16, fromFloat32, toFloat32 } from "./dtype-conversion.ts";
import { EspalierError } from "./errors.ts";

const { tensors } = openSafetensors(fileURLToPath(new URL("../../tests/fixtures/dtypes/roundings.safetensors", import.meta.url)));
const fixture = (name: string) => readStorage(tensors.get(name)!);
const every = Uint16Array.from({ length: 65536 }, (_, pattern) => pattern);

/** Bits, so that -0 differs from 0. */
const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

describe("against torch, over ties, overflow, subnormals and random bits", () => {
  test("float32 → float16", () => {
    expect(float32ToFloat16(fixture("float32") as Float32Array)).toEqual(fixture("float16"));
  });
  test("float32 → bfloat16", () => {
    expect(float32ToBfloat16(fixture("float32") as Float32Array)).toEqual(fixture("bfloat16"));
  });
  test("float16 → float32, every value from 0 to infinity and its negative", () => {
    const positive = fixture("every_float16") as Uint16Array;
    const wide = fixture("every_float16_as_float32") as Float32Array;
    expect(bits(float16ToFloat32(positive))).toEqual(bits(wide));
    const negative = positive.map((pattern) => pattern | 0x8000);
    expect(bits(float16ToFloat32(negative))).toEqual(bits(wide.map((value) => -value)));
  });
});

test("every 16-bit pattern survives the way to float32 and back, NaN apart, which stays NaN", () => {
  const roundTrips = [
    { there: float16ToFloat32, back: float32ToFloat16, infinity: 0x7c00 },
    { there: bfloat16ToFloat32, back: float32ToBfloat16, infinity: 0x7f80 },
  ];
  for (const { there, back, infinity } of roundTrips) {
    const wide = there(every);
    const narrow = back(wide);
    const wrong = [...every].filter((pattern) => {
      const notNumber = (pattern & 0x7fff) > infinity;
      return notNumber ? !Number.isNaN(wide[pattern]!) || (narrow[pattern]! & 0x7fff) <= infinity : narrow[pattern] !== pattern;
    });
    expect(wrong).toEqual([]);
  }
});

test("rounds ties to even, overflows to infinity and keeps a NaN whose payload would be cut off", () => {
  const nan = new Float32Array(Uint32Array.of(0x7f800001, 0xff800001).buffer);
  expect([...float32ToBfloat16(nan)].map((pattern) => (pattern & 0x7fff) > 0x7f80)).toEqual([true, true]);
  expect([...float32ToFloat16(nan)].map((pattern) => (pattern & 0x7fff) > 0x7c00)).toEqual([true, true]);
  const float16 = (value: number) => float16ToFloat32(float32ToFloat16(Float32Array.of(value)))[0];
  expect([2049, 2051, 65519, 65520, -65520, 2 ** -25, 3 * 2 ** -25, -(2 ** -26)].map(float16)).toEqual([
    2048,
    2052,
    65504,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    0,
    2 ** -23,
    -0,
  ]);
  const bfloat16 = (value: number) => bfloat16ToFloat32(float32ToBfloat16(Float32Array.of(value)))[0];
  // The largest bfloat16 is 0x7f7f; from half a step above it on everything is infinite.
  expect([257, 259, 3.3961e38, 3.4028234e38].map(bfloat16)).toEqual([256, 260, (2 - 2 ** -7) * 2 ** 127, Number.POSITIVE_INFINITY]);
});

test("a view into a larger array converts only itself", () => {
  const view = Float32Array.of(9, 1, 2, 9).subarray(1, 3);
  expect(bfloat16ToFloat32(float32ToBfloat16(view))).toEqual(Float32Array.of(1, 2));
  expect(float16ToFloat32(float32ToFloat16(view))).toEqual(Float32Array.of(1, 2));
});

test("by dtype name, and integers are refused", () => {
  const values = Float32Array.of(0.5, -2);
  for (const dtype of ["float32", "float64", "float16", "bfloat16"] as const) {
    expect(toFloat32(dtype, fromFloat32(dtype, values))).toEqual(values);
  }
  expect(toFloat32("float32", values)).toBe(values);
  expect(() => toFloat32("int64", BigInt64Array.of(1n))).toThrow(
    new EspalierError(
      "dtype-conversion",
      "int64 values are not converted to float32: only float32, float16, bfloat16 and float64 are. Check the dtype.",
    ),
  );
  expect(() => fromFloat32("bool", values)).toThrow(/^float32 values are not converted to bool/);
});
