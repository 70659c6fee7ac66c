import { expect, test } from "vitest";
import { hostTensor } from "../runtime/index.ts";
import { ctcBestPath } from "./ctc.ts";

/** Logits whose largest is at the given id of each frame. */
const spelt = (rows: readonly (readonly number[])[], vocabulary: number) => {
  const [batch, frames] = [rows.length, rows[0]!.length];
  const data = Float32Array.from({ length: batch * frames * vocabulary }, (_, i) => {
    const frame = Math.floor(i / vocabulary);
    return i % vocabulary === rows[Math.floor(frame / frames)]![frame % frames] ? 1 : -1;
  });
  return hostTensor("float32", [batch, frames, vocabulary], data);
};

test("repetitions are joined unless a blank is between them, and blanks left out", () => {
  // With 0 for the blank: 1 1 _ 1 2 2 → 1 1 2.
  const paths = [
    [1, 1, 0, 1, 2, 2],
    [0, 0, 3, 3, 0, 0],
  ];
  expect(ctcBestPath(spelt(paths, 4), 0)).toEqual([[1, 1, 2], [3]]);
  // With 2 for the blank, 0 is a letter.
  expect(ctcBestPath(spelt(paths, 4), 2)).toEqual([
    [1, 0, 1],
    [0, 3, 0],
  ]);
});

test("frames after a sound's end do not count", () => {
  const lengths = hostTensor("int64", [2], BigInt64Array.of(2n, 0n));
  const paths = [
    [1, 2, 3],
    [1, 2, 3],
  ];
  expect(ctcBestPath(spelt(paths, 4), 0, lengths)).toEqual([[1, 2], []]);
});

test("shapes that do not fit and a blank outside of the vocabulary are refused", () => {
  expect(() => ctcBestPath(hostTensor("float32", [2, 3], new Float32Array(6)), 0)).toThrow(/logits \[2, 3\]/);
  expect(() => ctcBestPath(spelt([[1]], 4), 4)).toThrow(/blank 4/);
  expect(() => ctcBestPath(spelt([[1]], 4), 0, hostTensor("int64", [2], BigInt64Array.of(1n, 1n)))).toThrow(/2 lengths/);
});
