/** Resizing as Pillow does it, bit for bit: vision models were trained on its results, and other kernels differ by several grey levels at edges. */
import { EspalierError } from "../../graph/errors.ts";

/** An image in memory: 8-bit red, green and blue, row by row from the top left. `data` has height · width · 3 bytes. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** A kernel over distances in source pixels, zero beyond `support`; when shrinking it is stretched, so that every source pixel counts. */
interface Kernel {
  support: number;
  weight(distance: number): number;
}

/** Keys, "Cubic Convolution Interpolation for Digital Image Processing", with a = −½. */
function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

const kernels = {
  bilinear: { support: 1, weight: (distance: number) => Math.max(0, 1 - Math.abs(distance)) },
  bicubic: { support: 2, weight: cubic },
} as const satisfies Record<string, Kernel>;

export type ResizeKernel = keyof typeof kernels;

/** Pixels of the largest result: beyond stands a mistake, such as the shortest edge of a very long image. */
const largest = 2 ** 26;

/** Weights are integers of this many fractional bits, as Pillow's are: the most for which a sum of bytes fits 32 bits. */
const fraction = 22;
const one = 2 ** fraction;

/** Which source places a target place is made of: `weights` (summing up to {@link one}, but for rounding) of those from `first` on. */
interface Tap {
  first: number;
  weights: Int32Array;
}

function taps(from: number, to: number, kernel: Kernel): Tap[] {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const reach = kernel.support * stretch;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(center - reach + 0.5));
    const end = Math.min(from, Math.floor(center + reach + 0.5));
    const raw = Array.from({ length: end - first }, (_, k) => kernel.weight((first + k + 0.5 - center) / stretch));
    const total = raw.reduce((a, b) => a + b, 0);
    return { first, weights: Int32Array.from(raw, (w) => Math.sign(w) * Math.floor((Math.abs(w) / total) * one + 0.5)) };
  });
}

const byte = (sum: number): number => Math.min(255, Math.max(0, sum >> fraction));

/** Where the places of an axis lie: `step` bytes apart, and in the next line `line` bytes further. */
interface Layout {
  step: number;
  line: number;
}

/** One pass along an axis, on all `lines` of the other one. Sums are of 32 bits, which is what makes it fast. */
function resizeAxis(source: Uint8Array, list: readonly Tap[], lines: number, from: Layout, to: Layout): Uint8Array {
  const target = new Uint8Array(lines * list.length * 3);
  for (let line = 0; line < lines; line++) {
    for (const [i, { first, weights }] of list.entries()) {
      let [red, green, blue] = [one >> 1, one >> 1, one >> 1];
      let at = line * from.line + first * from.step;
      for (let k = 0; k < weights.length; k++, at += from.step) {
        const weight = weights[k]!;
        red = (red + source[at]! * weight) | 0;
        green = (green + source[at + 1]! * weight) | 0;
        blue = (blue + source[at + 2]! * weight) | 0;
      }
      const out = line * to.line + i * to.step;
      target[out] = byte(red);
      target[out + 1] = byte(green);
      target[out + 2] = byte(blue);
    }
  }
  return target;
}

/**
 * Resizes with antialiasing, first along the rows and then along the columns.
 * @throws EspalierError `bad-option` for a size that is not positive, or of more than 67 million pixels
 */
export function resizeImage(image: RgbImage, size: { width: number; height: number }, kernel: ResizeKernel): RgbImage {
  const { width, height } = size;
  if (![width, height].every((n) => Number.isInteger(n) && n > 0))
    throw new EspalierError("bad-option", `An image cannot be resized to ${width}×${height} pixels: both sizes must be positive integers.`);
  if (width * height > largest)
    throw new EspalierError("bad-option", `An image cannot be resized to ${width}×${height} pixels: that is more than ${largest} in all.`);
  let { data } = image;
  if (width !== image.width) {
    const rows = taps(image.width, width, kernels[kernel]);
    data = resizeAxis(data, rows, image.height, { step: 3, line: 3 * image.width }, { step: 3, line: 3 * width });
  }
  if (height !== image.height) {
    const columns = { step: 3 * width, line: 3 };
    data = resizeAxis(data, taps(image.height, height, kernels[kernel]), width, columns, columns);
  }
  return { width, height, data };
}
