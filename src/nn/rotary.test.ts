import { afterAll, expect, test } from "vitest";
import { trace } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { Rotary, rotaryFrequencies } from "./rotary.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

/** One head of four elements per token, rotated twice as by two layers. */
async function rotated(rotary: Rotary, values: number[], positions: number[]): Promise<number[]> {
  const feeds = {
    x: hostTensor("float32", [1, 1, positions.length, 4], Float32Array.from(values)),
    at: hostTensor("int64", [1, positions.length], BigInt64Array.from(positions, BigInt)),
  };
  const program = await device.compile(trace(feeds, ({ x, at }) => ({ y: rotary.apply(rotary.apply(x, at), at) })));
  return Array.from((await program.run(feeds)).y!.data as Float32Array);
}

test.each([
  ["rows for each position", 8000, [0, 1, 300, 7999]],
  ["rows put together, for a long context", 131072, [0, 255, 256, 131071]],
])("%s", async (_, count, positions) => {
  const frequencies = rotaryFrequencies(4, 10000);
  const values = positions.flatMap((_, i) => [1, 2 + i, -3, 0.5]);
  const got = await rotated(new Rotary({ width: 4, positions: count, frequencies, scale: 1.25 }), values, positions);
  // The half-split layout: element i turns with element i + 2; twice the angle, twice the scale.
  const expected = positions.flatMap((position, t) => {
    const [a, b, c, d] = values.slice(4 * t, 4 * t + 4) as [number, number, number, number];
    const turn = (x: number, y: number, f: number) => [
      x * Math.cos(2 * position * f) - y * Math.sin(2 * position * f),
      y * Math.cos(2 * position * f) + x * Math.sin(2 * position * f),
    ];
    const [first, second] = [turn(a, c, frequencies[0]!), turn(b, d, frequencies[1]!)];
    return [first[0]!, second[0]!, first[1]!, second[1]!].map((v) => 1.25 ** 2 * v);
  });
  for (const [i, value] of got.entries()) expect(value).toBeCloseTo(expected[i]!, 5);
});
