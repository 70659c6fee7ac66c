import { expect, test } from "vitest";
import { refusal } from "../refusal.ts";
import { dequantize } from "./dequantize.ts";
import { readableTypes } from "./ggml-types.ts";

const type = (name: string) => [...readableTypes.values()].find((t) => t.name === name)!;
/** 1.0 and 2.0 as float16. */
const [one, two] = [
  [0x00, 0x3c],
  [0x00, 0x40],
];
const ramp = (count: number, f: (i: number) => number) => Float32Array.from({ length: count }, (_, i) => f(i));

test("Q8_0: signed bytes times the scale", () => {
  const bytes = Uint8Array.from([...two!, ...Array.from({ length: 32 }, (_, i) => (i - 16) & 255)]);
  expect(dequantize(type("Q8_0"), bytes)).toEqual(ramp(32, (i) => 2 * (i - 16)));
});

test("Q4_0: the low nibbles are the first half, and 8 is zero", () => {
  const bytes = Uint8Array.from([...one!, ...Array.from({ length: 16 }, (_, j) => j | ((15 - j) << 4))]);
  expect(dequantize(type("Q4_0"), bytes)).toEqual(ramp(32, (i) => (i < 16 ? i : 31 - i) - 8));
});

test("Q5_1: the fifth bits add 16, the minimum is added", () => {
  // Element 0 and element 31 have their fifth bit.
  const bytes = Uint8Array.from([...one!, ...two!, 1, 0, 0, 0x80, ...new Array<number>(16).fill(0x21)]);
  expect(dequantize(type("Q5_1"), bytes)).toEqual(ramp(32, (i) => (i < 16 ? 1 : 2) + (i === 0 || i === 31 ? 16 : 0) + 2));
});

test("Q4_K: eight six-bit scales and minima, the last four in pieces", () => {
  // Scale 1 and minimum 0 of the first four; scale 1 + 16 and minimum 2 + 32 of the last four.
  const packed = [0x41, 0x41, 0x41, 0x41, 0x80, 0x80, 0x80, 0x80, 0x21, 0x21, 0x21, 0x21];
  const bytes = Uint8Array.from([...one!, ...two!, ...packed, ...new Array<number>(128).fill(0x53)]);
  const q = (i: number) => (Math.floor(i / 32) % 2 === 0 ? 3 : 5);
  expect(dequantize(type("Q4_K"), bytes)).toEqual(ramp(256, (i) => (i < 128 ? q(i) : 17 * q(i) - 2 * 34)));
});

test("a part of a block, and a type that is not quantised", () => {
  expect(refusal(() => dequantize(type("Q4_K"), new Uint8Array(143)))).toEqual({
    code: "checkpoint-shape",
    message: "143 bytes are not whole blocks of Q4_K, which take 144 each.",
  });
  expect(refusal(() => dequantize(type("F16"), new Uint8Array(2))).code).toBe("checkpoint-dtype");
});
