import { currentGraph, type Dim, type Graph, mulDims, read, type Tensor, Variable } from "../graph/index.ts";
import { add, concat, div, gather, mul, range, reshape, rotary, slice, sub } from "../ops/index.ts";
import { floats } from "./module.ts";

export interface RotaryOptions {
  /** Elements of each head that are rotated: the first ones, all or a part of its width. */
  width: number;
  /** Positions that the tables hold. */
  positions: number;
  /** Angle per position of each pair of elements, [width/2]. */
  frequencies: readonly number[];
  /** Factor on cosines and sines, as some stretched embeddings have it. Default 1. */
  scale?: number | undefined;
}

/** base^(−2i/width), the frequencies of the original embedding. */
export const rotaryFrequencies = (width: number, base: number): number[] =>
  Array.from({ length: width / 2 }, (_, i) => base ** ((-2 * i) / width));

/**
 * Positions up to which a row is kept for each. Beyond, tables of a long context would take tens of megabytes and a noticeable part of a second to
 * make; then a row is kept for each block of positions and for each place in a block, and put together by the sum of angles.
 */
const wholeTables = 8192;
const block = 256;

/** Cosines and sines of some positions, [rows, width/2] each, and the row of each token, int64 [batch, time]. */
interface Rows {
  cos: Tensor;
  sin: Tensor;
  index: Tensor;
}

/** Rotary position embedding (Su et al., "RoFormer"): tables of cosines and sines, made when they are first needed and shared by all layers. */
export class Rotary {
  readonly width: number;
  readonly #rows: (positions: Tensor) => Rows;
  /** What one forward pass looks up serves all its layers. */
  readonly #known = new WeakMap<Tensor, Rows>();

  constructor({ width, positions, frequencies, scale = 1 }: RotaryOptions) {
    this.width = width;
    if (positions <= wholeTables) {
      const table = angleTables("rotary", positions, frequencies, 1, scale);
      this.#rows = (index) => ({ cos: read(table.cos), sin: read(table.sin), index });
      return;
    }
    const coarse = angleTables("rotary.block", Math.ceil(positions / block), frequencies, block, scale);
    const fine = angleTables("rotary.place", block, frequencies, 1, 1);
    this.#rows = (at) => {
      const tokens = mulDims(...(at.shape as [Dim, Dim]));
      const flat = reshape(at, [tokens]);
      const start = div(flat, block); // of integers, so the fraction is dropped
      const place = sub(flat, mul(start, block));
      const [c, s] = [gather(read(coarse.cos), start), gather(read(coarse.sin), start)];
      const [cosPlace, sinPlace] = [gather(read(fine.cos), place), gather(read(fine.sin), place)];
      return {
        cos: sub(mul(c, cosPlace), mul(s, sinPlace)),
        sin: add(mul(s, cosPlace), mul(c, sinPlace)),
        index: reshape(range(tokens), at.shape),
      };
    };
  }

  /** `x` [batch, heads, time, width or more], `positions` int64 [batch, time] → `x` with the first `width` elements of each head rotated. */
  apply(x: Tensor, positions: Tensor): Tensor {
    const known = this.#known.get(positions);
    // What was looked up inside one branch of the graph cannot be seen from another.
    const rows = known && isVisible(known.cos) ? known : this.#rows(positions);
    this.#known.set(positions, rows);
    const { cos, sin, index } = rows;
    if (x.shape[3] === this.width) return rotary(x, cos, sin, index);
    return concat([rotary(slice(x, 3, 0, this.width), cos, sin, index), slice(x, 3, this.width)], 3);
  }
}

function isVisible({ graph }: Tensor): boolean {
  for (let at: Graph | undefined = currentGraph(); at; at = at.parent) if (at === graph) return true;
  return false;
}

/** scale·cos and scale·sin of row·step·frequency, [rows, frequencies]. */
function angleTables(
  name: string,
  rows: number,
  frequencies: readonly number[],
  step: number,
  scale: number,
): { cos: Variable; sin: Variable } {
  const half = frequencies.length;
  const table = (f: (angle: number) => number) =>
    new Variable(
      `${name}.${f.name}`,
      { dtype: "float32", shape: [rows, half] },
      () => {
        const values = new Float32Array(rows * half);
        for (let i = 0; i < values.length; i++) values[i] = scale * f(Math.floor(i / half) * step * frequencies[i % half]!);
        return floats([rows, half], values);
      },
      { frozen: true },
    );
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
