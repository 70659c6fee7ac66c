import { expect, test } from "vitest";
import {
  converted,
  type FileStorage,
  type LazyStorage,
  type MemoryStorage,
  type Storage,
  streamValues,
  Variable,
  valuesOf,
} from "./index.ts";

const noFile = () => {
  throw new Error("there is no file here");
};
const patterns: MemoryStorage = { kind: "memory", dtype: "bfloat16", shape: [2, 2], data: Uint16Array.of(0x3f80, 0xc000, 0x0000, 0x3f81) };
const lazy = (load: LazyStorage["load"]): LazyStorage => ({ kind: "lazy", dtype: "float32", shape: [3], load });

test("values are read as any float type: widened exactly, rounded where the type is narrower", () => {
  expect(valuesOf(patterns, "float32", noFile)).toEqual(Float32Array.of(1, -2, 0, 1.0078125));
  expect(valuesOf(patterns, "float16", noFile)).toEqual(Uint16Array.of(0x3c00, 0xc000, 0, 0x3c08));
  expect(valuesOf(patterns, "float64", noFile)).toEqual(Float64Array.of(1, -2, 0, 1.0078125));
  const wide: MemoryStorage = { kind: "memory", dtype: "float64", shape: [2], data: Float64Array.of(0.1, 1e300) };
  expect(valuesOf(wide, "float32", noFile)).toEqual(Float32Array.of(Math.fround(0.1), Number.POSITIVE_INFINITY));
  expect(valuesOf(patterns, "bfloat16", noFile)).toBe(patterns.data);
});

test("a converted storage holds the rounded values, whatever it is read as", () => {
  const fine: MemoryStorage = { kind: "memory", dtype: "float32", shape: [2], data: Float32Array.of(1.001, -3) };
  const coarse = converted(fine, "bfloat16");
  expect(coarse).toMatchObject({ dtype: "bfloat16", shape: [2] });
  expect(valuesOf(coarse, "float32", noFile)).toEqual(Float32Array.of(1, -3));
  expect(valuesOf(coarse, "bfloat16", noFile)).toEqual(Uint16Array.of(0x3f80, 0xc040));
  expect(converted(fine, "float32")).toBe(fine);
  expect(() => converted({ kind: "memory", dtype: "int8", shape: [1], data: Int8Array.of(1) }, "float32")).toThrow(
    /int8 \[1\] cannot be held as float32/,
  );
});

test("a lazy storage computes its values when they are read, and must give those that it promises", () => {
  let calls = 0;
  const storage = lazy(() => Float32Array.of(++calls, 0, 0));
  expect(calls).toBe(0);
  expect(valuesOf(storage, "float32", noFile)).toEqual(Float32Array.of(1, 0, 0));
  expect(valuesOf(storage, "bfloat16", noFile)).toEqual(Uint16Array.of(0x4000, 0, 0));
  for (const wrong of [Float32Array.of(1), Uint16Array.of(1, 2, 3)])
    expect(() =>
      valuesOf(
        lazy(() => wrong),
        "float32",
        noFile,
      ),
    ).toThrow(/must give Float32Array of 3/);
});

test("large values come in parts, each converted; a file's parts keep their order", () => {
  const length = 600_001;
  const data = Float32Array.from({ length }, (_, i) => (i % 257) - 128);
  const file: FileStorage = { kind: "file", dtype: "float32", shape: [length], file: "/w", offset: 0, byteLength: 4 * length };
  const inThirds = (_: FileStorage, take: (part: Float32Array) => void) => {
    for (let i = 0; i < length; i += 200_000) take(data.subarray(i, i + 200_000));
  };
  const sources: Storage[] = [file, { kind: "memory", dtype: "float32", shape: [length], data }, { ...lazy(() => data), shape: [length] }];
  for (const source of sources) {
    const through = converted(converted(source, "float16"), "float32");
    // Compared as bytes: the test runner takes seconds over arrays.
    const bytes = new Uint8Array(valuesOf(through, "float32", inThirds).buffer);
    expect(Buffer.compare(bytes, new Uint8Array(data.buffer))).toBe(0);
    let parts = 0;
    streamValues(through, "float32", inThirds, () => parts++);
    expect(parts).toBeGreaterThan(2);
  }
});

test("a float32 variable takes values of any float type, and nothing else of another type or shape", () => {
  const v = new Variable("v", { dtype: "float32", shape: [2, 2] }, patterns);
  v.storage = patterns;
  expect(v.version).toBe(1);
  const refused: Storage[] = [
    { kind: "memory", dtype: "int32", shape: [2, 2], data: new Int32Array(4) },
    { ...patterns, shape: [4] },
  ];
  for (const storage of refused)
    expect(() => {
      v.storage = storage;
    }).toThrow(/"v" is float32 \[2,2\] and cannot hold/);
  const narrow = new Variable("n", { dtype: "bfloat16", shape: [2, 2] }, patterns);
  expect(() => {
    narrow.storage = { kind: "memory", dtype: "float32", shape: [2, 2], data: new Float32Array(4) };
  }).toThrow(/"n" is bfloat16 \[2,2\] and cannot hold float32/);
});
