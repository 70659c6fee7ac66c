import { expect } from "vitest";
import { allocate, type DType, elementCount } from "../../src/graph/index.ts";
import { type HostTensor, hostTensor } from "../../src/runtime/device.ts";

/** Numbers for one operand. Without a dtype they are floats, of the width that the check needs. */
export interface Values {
  dtype?: DType;
  shape: readonly number[];
  data: readonly number[];
}

export const values = (shape: readonly number[], data: readonly number[], dtype?: DType): Values => ({ shape, data, dtype });
export const vector = (...data: number[]): Values => ({ shape: [data.length], data });
export const ids = (shape: readonly number[], ...data: number[]): Values => ({ shape, data, dtype: "int64" });
export const bools = (shape: readonly number[], ...data: number[]): Values => ({ shape, data, dtype: "bool" });

/** Reproducible, irregular numbers between `low` and `high`. */
export function sample(shape: readonly number[], low = -1, high = 1, seed = 1): Values {
  const data = Array.from({ length: elementCount(shape) }, (_, i) => {
    const x = Math.sin((i + 1) * 12.9898 + seed * 78.233) * 43758.5453;
    return Math.fround(low + (x - Math.floor(x)) * (high - low));
  });
  return { shape, data };
}

export function host({ shape, data, dtype }: Values, float: DType): HostTensor {
  const type = dtype ?? float;
  const array = allocate(type, data.length);
  for (const [i, v] of data.entries()) array[i] = type === "int64" ? BigInt(v) : v;
  return hostTensor(type, shape, array);
}

export const numbers = (t: HostTensor): number[] => Array.from(t.data as ArrayLike<number | bigint>, Number);
/** Element by element, |actual − expected| ≤ tolerance · (1 + |expected|). */
export function expectClose(actual: readonly number[], expected: readonly number[], tolerance: number, what: string): void {
  expect(actual.length, `${what}: number of elements`).toBe(expected.length);
  const worst = expected.reduce((at, e, i) => (deviation(actual[i]!, e) > deviation(actual[at]!, expected[at]!) ? i : at), 0);
  if (expected.length > 0 && !(deviation(actual[worst]!, expected[worst]!) <= tolerance)) {
    const show = (list: readonly number[]) => list.slice(0, 24).map((v) => Number(v.toPrecision(7)));
    expect.fail(
      `${what}: element ${worst} is ${actual[worst]}, expected ${expected[worst]}\n  got      ${show(actual)}\n  expected ${show(expected)}`,
    );
  }
}

function deviation(a: number, e: number): number {
  if (Object.is(a, e) || a === e) return 0;
  const d = Math.abs(a - e) / (1 + Math.abs(e));
  return Number.isNaN(d) ? Number.POSITIVE_INFINITY : d;
}
