import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { addDims, concrete, type Dim, dimsEqual, divDims, EspalierError, formatShape, mulDims, sizeOf, subDims, symbol } from "./index.ts";

const [batch, past, time] = [symbol("batch"), symbol("past"), symbol("time")];

/** The value of a dimension for given sizes. */
const evaluate = (d: Dim, sizes: Record<string, number>): number =>
  typeof d === "number"
    ? d
    : [...d.terms].reduce(
        (n, [monomial, k]) =>
          n +
          k *
            monomial
              .split("*")
              .filter(Boolean)
              .reduce((p, s) => p * sizes[s]!, 1),
        0,
      );

const anyDim = fc.letrec<{ dim: Dim }>((tie) => ({
  dim: fc.oneof(
    { maxDepth: 4 },
    fc.integer({ min: -3, max: 6 }),
    fc.constantFrom(batch, past, time),
    fc.tuple(tie("dim"), tie("dim")).map(([a, b]) => addDims(a, b)),
    fc.tuple(tie("dim"), tie("dim")).map(([a, b]) => mulDims(a, b)),
  ),
})).dim;

describe("dimensions", () => {
  test("numbers stay numbers", () => {
    expect([addDims(2, 3), subDims(2, 3), mulDims(2, 3), divDims(6, 3), divDims(7, 3), divDims(1, 0)]).toEqual([
      5,
      -1,
      6,
      2,
      undefined,
      undefined,
    ]);
  });
  test("print as one would write them", () => {
    expect(formatShape([batch, addDims(past, time), mulDims(2, mulDims(batch, time)), addDims(time, 1), 4])).toBe(
      "[batch,past + time,2*batch*time,time + 1,4]",
    );
  });
  test("terms that cancel leave numbers", () => {
    expect(subDims(addDims(past, time), addDims(time, past))).toBe(0);
    expect(subDims(addDims(past, 3), past)).toBe(3);
    expect(mulDims(batch, 0)).toBe(0);
  });
  test("division by a sum", () => {
    const total = addDims(past, time);
    expect(dimsEqual(divDims(sizeOf([batch, total, 6]), total)!, mulDims(batch, 6))).toBe(true);
    expect(divDims(sizeOf([batch, time]), total)).toBeUndefined();
    expect(divDims(batch, 2)).toBeUndefined();
    expect(divDims(batch, 0)).toBeUndefined();
    expect(divDims(3, batch)).toBeUndefined();
  });
  test("arithmetic agrees with that of numbers, whatever the sizes", () => {
    const sizes = fc.record({ batch: fc.nat(5), past: fc.nat(5), time: fc.nat(5) });
    fc.assert(
      fc.property(anyDim, anyDim, sizes, (a, b, s) => {
        const [x, y] = [evaluate(a, s), evaluate(b, s)];
        expect([addDims, subDims, mulDims].map((op) => evaluate(op(a, b), s) + 0)).toEqual([x + y + 0, x - y + 0, x * y + 0]);
        if (b !== 0) expect(dimsEqual(divDims(mulDims(a, b), b)!, a)).toBe(true);
      }),
    );
  });
  test("a name must be an identifier, and a symbol is no number", () => {
    expect(() => symbol("a b")).toThrow(EspalierError);
    expect(() => concrete([2, time], "A weight")).toThrow(/A weight needs a shape of numbers, got \[2,time\]/);
  });
});
