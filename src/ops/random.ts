import {
  addDims,
  currentGraph,
  currentPath,
  type Dim,
  type DType,
  EspalierError,
  isFloat,
  mulDims,
  type Shape,
  sizeOf,
  type Tensor,
} from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { add, cast, cos, div, less, log, mul, neg, sqrt, where } from "./elementwise.ts";
import { dims, int64s, node, type Ref, result, scalar } from "./emission.ts";
import { fill } from "./movement.ts";

/**
 * Where random numbers come from. Nothing is drawn from a hidden state: each number is a pure function of seed, step, site and the
 * element's place, so that a resumed run is identical to one that was never stopped, and a step can be repeated.
 */
export interface RandomKey {
  /** int64 or int32 scalars of the graph, so that a new seed or step needs no new program. The low 32 bits count. */
  seed: Tensor;
  step: Tensor;
  /** Tells apart the places of a program that draw numbers. Default: from the module path and the draws made there so far. */
  site?: number;
}

/** FNV-1a: a 32-bit number from a name. */
function hashName(name: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193);
  return h | 0;
}

/** A site from the module path; the second draw at one path gets another site than the first, in whichever branch of a gate it stands. */
function siteHere(): number {
  const path = currentPath();
  return hashName(`${path}#${currentGraph().count(`draw ${path}`)}`);
}

const int = (value: number): Ref => scalar("int32", value | 0);
const times = (x: Ref, factor: number): Ref => node("Mul", [x, int(factor)]);

/**
 * A mix of int32 values: nearby ones become unrelated. Only wrapping products and sums, and division by powers of two, which every
 * provider computes to the same bits: shifts and exclusive-or lack kernels for int32 on some.
 */
function mix(x: Ref): Ref {
  const fold = (v: Ref, bits: number): Ref => node("Add", [v, node("Div", [v, int(2 ** bits)])]);
  return fold(times(fold(times(fold(x, 16), 0x7feb352d), 15), 0x846ca68b), 16);
}

const randomBitsOp = defineOp<{ seed: Tensor; step: Tensor }, { site: number; shape: Shape }>({
  name: "RandomBits",
  type: ({ seed, step }, { shape }) => {
    for (const t of [seed, step])
      if ((t.dtype !== "int64" && t.dtype !== "int32") || sizeOf(t.shape) !== 1)
        throw shapeError("RandomBits", { seed, step }, "seed and step must be one int64 or int32 element each");
    return { dtype: "int32", shape };
  },
  // Hashing every element in full would take a dozen passes over the tensor. The last axis and all others together are hashed apart,
  // as short vectors, two of each; a quadratic form of them then makes each element's bits in four passes.
  emit: ({ seed, step }, { site, shape }) => {
    const word = (t: Ref) => node("Reshape", [node("Cast", [t], { to: { dtype: "int32" } }), int64s([1])]);
    const key = mix(node("Add", [times(mix(node("Add", [times(word(seed), 0x9e3779b1), int(0x632be5ab)])), 0x85ebca6b), word(step)]));
    const keyed = mix(node("Add", [key, int(site)]));
    const columns: Dim = shape.at(-1) ?? 1;
    const rows = sizeOf(shape.slice(0, -1));
    const scalarOf = (d: Dim) => node("Reshape", [dims([d]), int64s([])]);
    const count = mulDims(addDims(rows, columns), 2);
    const places = node("Cast", [node("Range", [scalarOf(0), scalarOf(count), scalarOf(1)])], { to: { dtype: "int32" } });
    const hashes = mix(node("Add", [mix(node("Add", [times(places, 0x9e3779b1), keyed])), keyed]));
    const row = node("Split", [hashes, dims([rows, rows, columns, columns])], { axis: 0 }, { outputs: 4 });
    const [row2, column, column2] = [result(row, 1), result(row, 2), result(row, 3)];
    const down = (t: Ref) => node("Reshape", [t, dims([rows, 1])]);
    const odd = (t: Ref) => node("Add", [times(t, 2), int(1)]);
    const product = node("Mul", [odd(down(row)), odd(column)]);
    const bits = node("Mul", [node("Add", [product, down(row2)]), node("Add", [product, column2])]);
    return node("Reshape", [bits, dims(shape)]);
  },
});

/** Random int32 of which the high 24 bits are good: uniform over the type's range. */
const randomBits = (shape: Shape, key: RandomKey): Tensor =>
  randomBitsOp({ seed: key.seed, step: key.step }, { site: key.site ?? siteHere(), shape });

/** Uniform numbers in [low, high): multiples of 2⁻²⁴ scaled, with the same bits on every provider for [0, 1). */
export function uniform(shape: Shape, key: RandomKey, options: { low?: number; high?: number; dtype?: DType } = {}): Tensor {
  const { low = 0, high = 1, dtype = "float32" } = options;
  if (!isFloat(dtype)) throw new EspalierError("dtype", `uniform draws floats, not ${dtype}.`);
  const unit = add(mul(cast(div(randomBits(shape, key), 256), "float32"), 2 ** -24), 0.5);
  const scaled = low === 0 && high === 1 ? unit : add(mul(unit, high - low), low);
  return cast(scaled, dtype);
}

/** Normal numbers of mean 0 and standard deviation 1 (Box and Muller). */
export function normal(shape: Shape, key: RandomKey, dtype: DType = "float32"): Tensor {
  const site = key.site ?? siteHere();
  const radius = uniform(shape, { ...key, site });
  const angle = uniform(shape, { ...key, site: (site ^ 0x5bd1e995) | 0 });
  // log of (0, 1]: the uniform number may be 0 and is never 1.
  return cast(mul(sqrt(mul(log(add(neg(radius), 1)), -2)), cos(mul(angle, 2 * Math.PI))), dtype);
}

/** Bools, true with probability `p`. */
export function bernoulli(shape: Shape, p: number, key: RandomKey): Tensor {
  if (!(p >= 0 && p <= 1)) throw new EspalierError("probability", `A probability lies between 0 and 1; got ${p}.`);
  const threshold = Math.round(p * 2 ** 32) - 2 ** 31;
  if (p === 0 || threshold >= 2 ** 31) return fill(shape, p === 0 ? 0 : 1, "bool");
  return less(randomBits(shape, key), threshold);
}

/**
 * Sets each element to zero with probability `p` and divides the others by 1 − p, which keeps the mean (Srivastava et al., "Dropout").
 * The gradient passes where the value did.
 */
export function dropout(x: Tensor, p: number, key: RandomKey): Tensor {
  if (!(p >= 0 && p < 1)) throw new EspalierError("probability", `dropout needs a probability in [0, 1); got ${p}.`);
  return p === 0 ? x : where(bernoulli(x.shape, 1 - p, key), mul(x, 1 / (1 - p)), 0);
}
