import type { Random } from "../../src/graph/index.ts";

export const [side, classes] = [16, 12] as const;

/** Images and their classes. */
export interface Images {
  /** [count, side · side]. */
  pixels: Float32Array;
  labels: BigInt64Array;
  count: number;
}

const [orientations, wavelengths] = [4, [3.2, 4.8, 7.2]] as const;

/** Gratings under a Gaussian window, of 4 orientations × 3 wavelengths: phase and centre are random, and there is noise of standard deviation 0.6. */
export function gaborImages(count: number, random: Random): Images {
  const pixels = new Float32Array(count * side * side);
  const labels = new BigInt64Array(count);
  for (let n = 0; n < count; n++) {
    const label = random.integer(classes);
    const angle = (Math.PI * (label % orientations)) / orientations;
    const frequency = (2 * Math.PI) / wavelengths[Math.floor(label / orientations)]!;
    const phase = 2 * Math.PI * random.uniform();
    const [cx, cy] = [random.uniform(), random.uniform()].map((at) => side * (0.3 + 0.4 * at)) as [number, number];
    labels[n] = BigInt(label);
    for (let i = 0; i < side * side; i++) {
      const [x, y] = [(i % side) - cx, Math.floor(i / side) - cy];
      const along = x * Math.cos(angle) + y * Math.sin(angle);
      const window = Math.exp(-(x * x + y * y) / (2 * 3.2 ** 2));
      pixels[n * side * side + i] = window * Math.cos(frequency * along + phase) + 0.6 * random.normal();
    }
  }
  return { pixels, labels, count };
}

/** The images from `from` to `to`. */
export const part = ({ pixels, labels }: Images, from: number, to: number): Images => ({
  pixels: pixels.slice(from * side * side, to * side * side),
  labels: labels.slice(from, to),
  count: to - from,
});
