import { type Dim, type DType, dimsEqual, type Shape, sizeOf, type Tensor, type TensorType } from "../graph/index.ts";
import { defineOp, normalizeAxis, shapeError } from "./define.ts";
import { add, cast, div, equal, exp, log, maximum, minimum, mul, stopGradient, sub, where } from "./elementwise.ts";
import { dims, int64s, node, result, scalar } from "./emission.ts";
import { gatherElementsGradient } from "./indexing.ts";
import { expand, flip, reshape } from "./movement.ts";

export interface ReduceOptions {
  /** Keep the reduced axes with size 1. Default false. */
  keepDims?: boolean;
}

type Axes = number | readonly number[];
interface ReduceAttrs {
  axes: readonly number[];
  keepDims: boolean;
}

function reducedShape(x: TensorType, { axes, keepDims }: ReduceAttrs): Shape {
  return x.shape.flatMap((d, i): Dim[] => (axes.includes(i) ? (keepDims ? [1] : []) : [d]));
}

/** The shape of the result with the reduced axes kept, so that it broadcasts against the operand. */
const keptShape = (x: TensorType, axes: readonly number[]): Shape => x.shape.map((d, i) => (axes.includes(i) ? 1 : d));

function reduction(name: string, grad: (x: Tensor, y: Tensor, dy: Tensor, axes: readonly number[]) => Tensor) {
  const op = defineOp<{ x: Tensor }, ReduceAttrs>({
    name,
    type: ({ x }, attrs) => ({ dtype: x.dtype, shape: reducedShape(x, attrs) }),
    emit: ({ x }, { axes, keepDims }) => node(name, [x, int64s(axes)], { keepdims: keepDims ? 1 : 0 }),
    grad: ({ x, y }, dy, { axes }) => ({ x: grad(x, reshape(y, keptShape(x, axes)), reshape(dy, keptShape(x, axes)), axes) }),
  });
  return (x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor => {
    const list = axes === undefined ? x.shape.map((_, i) => i) : typeof axes === "number" ? [axes] : axes;
    const normal = list.map((a) => normalizeAxis(a, x.rank, name, { x }));
    if (new Set(normal).size !== normal.length) throw shapeError(name, { x }, `axes [${list}] name one axis twice`);
    if (normal.length === 0) return x;
    return op({ x }, { axes: normal.sort((a, b) => a - b), keepDims: options.keepDims ?? false });
  };
}

/** Sum over `axes` (default: all). */
export const sum = reduction("ReduceSum", (x, _y, dy) => expand(dy, x.shape));
/** Sum of the squared elements over `axes` (default: all), in one pass. */
export const sumOfSquares = reduction("ReduceSumSquare", (x, _y, dy) => mul(mul(x, 2), dy));
/** Arithmetic mean over `axes` (default: all). */
export const mean = reduction("ReduceMean", (x, _y, dy, axes) => {
  const count = sizeOf(axes.map((a) => x.shape[a]!));
  return expand(typeof count === "number" ? div(dy, count) : div(dy, cast(dimension(count), x.dtype)), x.shape);
});
// Equal extremes share the gradient evenly.
const extremeGradient = (x: Tensor, y: Tensor, dy: Tensor, axes: readonly number[]): Tensor => {
  const winners = cast(equal(x, y), x.dtype);
  return mul(winners, div(dy, sum(winners, axes, { keepDims: true })));
};
/** Largest element over `axes` (default: all). */
export const max = reduction("ReduceMax", extremeGradient);
/** Smallest element over `axes` (default: all). */
export const min = reduction("ReduceMin", extremeGradient);

const largest: Partial<Record<DType, number>> = { float16: 65504, bfloat16: 2 ** 128 - 2 ** 120, float32: 2 ** 128 - 2 ** 104 };

/** log Σ eˣ over `axes`, computed without overflow; −∞ with a gradient of zeros where every x is −∞. */
export function logSumExp(x: Tensor, axes: Axes = -1, options: ReduceOptions = {}): Tensor {
  const top = stopGradient(max(x, axes, { keepDims: true }));
  // A finite shift: −∞ − −∞ would be NaN.
  const bound = largest[x.dtype] ?? Number.MAX_VALUE;
  const shift = minimum(maximum(top, -bound), bound);
  const total = sum(exp(sub(x, shift)), axes, { keepDims: true });
  // At least e⁰ = 1, but for a row of −∞.
  const empty = equal(total, 0);
  const kept = where(empty, top, add(log(where(empty, 1, total)), shift));
  return options.keepDims ? kept : sum(kept, axes);
}

/** The value of a dimension, as an int64 scalar: a symbol is read from the inputs at run time. */
export const dimension = (value: Dim): Tensor => dimensionOp({}, { value });

const dimensionOp = defineOp<Record<never, never>, { value: Dim }>({
  name: "Dimension",
  type: () => ({ dtype: "int64", shape: [] }),
  emit: (_refs, { value }) => node("Reshape", [dims([value]), int64s([])]),
});

/** Undoes broadcasting: sums `x` over the axes along which `shape` was stretched. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  const extra = x.rank - shape.length;
  const axes = x.shape.flatMap((d, i) => (i < extra || (shape[i - extra] === 1 && !dimsEqual(d, 1)) ? [i] : []));
  return axes.length === 0 ? x : reshape(sum(x, axes, { keepDims: true }), shape);
}

interface AxisAttrs {
  axis: number;
}

function argExtreme(name: string) {
  const op = defineOp<{ x: Tensor }, AxisAttrs & { keepDims: boolean }>({
    name,
    type: ({ x }, { axis, keepDims }) => ({ dtype: "int64", shape: reducedShape(x, { axes: [axis], keepDims }) }),
    emit: ({ x }, { axis, keepDims }) => node(name, [x], { axis, keepdims: keepDims ? 1 : 0, select_last_index: 0 }),
  });
  return (x: Tensor, axis = -1, options: ReduceOptions = {}): Tensor =>
    op({ x }, { axis: normalizeAxis(axis, x.rank, name, { x }), keepDims: options.keepDims ?? false });
}
/** Index (int64) of the largest element along an axis, the first one of equals. */
export const argMax = argExtreme("ArgMax");
export const argMin = argExtreme("ArgMin");

const topKOp = defineOp<{ x: Tensor }, AxisAttrs & { k: number; largest: boolean }>({
  name: "TopK",
  type: ({ x }, { axis, k }) => {
    const size = x.shape[axis]!;
    if (!Number.isInteger(k) || k < 1 || (typeof size === "number" && k > size))
      throw shapeError("TopK", { x }, `k = ${k} does not lie between 1 and the size ${size} of axis ${axis}`);
    const shape = x.shape.map((d, i) => (i === axis ? k : d));
    return [
      { dtype: x.dtype, shape },
      { dtype: "int64", shape },
    ];
  },
  emit: ({ x }, { axis, k, largest }) => {
    const top = node("TopK", [x, int64s([k])], { axis, largest: largest ? 1 : 0, sorted: 1 }, { outputs: 2 });
    return [top, result(top, 1)];
  },
  grad: ({ x, outputs }, dy, { axis }) => ({ x: gatherElementsGradient(x, outputs[1]!, dy, axis) }),
});

/** The `k` largest (or smallest) elements along an axis, sorted, and their int64 indices; of equals the lower index comes first. */
export function topK(x: Tensor, k: number, axis = -1, options: { largest?: boolean } = {}): { values: Tensor; indices: Tensor } {
  const [values, indices] = topKOp.all({ x }, { k, axis: normalizeAxis(axis, x.rank, "TopK", { x }), largest: options.largest ?? true });
  return { values: values!, indices: indices! };
}

const cumSumOp = defineOp<{ x: Tensor }, AxisAttrs>({
  name: "CumSum",
  type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
  emit: ({ x }, { axis }) => node("CumSum", [x, scalar("int64", axis)]),
  grad: (_values, dy, { axis }) => ({ x: flip(cumSum(flip(dy, axis), axis), axis) }),
});

/** Running sum along an axis, each element included in its own sum. */
export const cumSum = (x: Tensor, axis = -1): Tensor => cumSumOp({ x }, { axis: normalizeAxis(axis, x.rank, "CumSum", { x }) });
