import { read, type Tensor, Variable } from "../graph/index.ts";
import { concat, rotary, slice } from "../ops/index.ts";
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

/** Rotary position embedding (Su et al., "RoFormer"): tables of cosines and sines, made when they are first needed and shared by all layers. */
export class Rotary {
  readonly width: number;
  readonly #cos: Variable;
  readonly #sin: Variable;

  constructor({ width, positions, frequencies, scale = 1 }: RotaryOptions) {
    this.width = width;
    const half = width / 2;
    const table = (name: string, f: (angle: number) => number) =>
      new Variable(
        name,
        { dtype: "float32", shape: [positions, half] },
        () => {
          const values = new Float32Array(positions * half);
          for (let i = 0; i < values.length; i++) values[i] = scale * f(Math.floor(i / half) * frequencies[i % half]!);
          return floats([positions, half], values);
        },
        { frozen: true },
      );
    this.#cos = table("rotary.cos", Math.cos);
    this.#sin = table("rotary.sin", Math.sin);
  }

  /** `x` [batch, heads, time, width or more], `positions` int64 [batch, time] → `x` with the first `width` elements of each head rotated. */
  apply(x: Tensor, positions: Tensor): Tensor {
    const [cos, sin] = [read(this.#cos), read(this.#sin)];
    if (x.shape[3] === this.width) return rotary(x, cos, sin, positions);
    return concat([rotary(slice(x, 3, 0, this.width), cos, sin, positions), slice(x, 3, this.width)], 3);
  }
}
