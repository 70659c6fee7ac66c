import { type Dim, EspalierError, sizeOf, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import type { NodeContext, Result, Rule, Rules } from "../context.ts";

type Reduction = (x: Tensor, axes: readonly number[], options: { keepDims: boolean }) => Tensor;

function reduction(f: Reduction): Rule {
  return (n) => {
    const x = n.tensor(0);
    const axes = n.axes(1);
    if (n.int("noop_with_empty_axes", 0) === 1 && !axes?.length) return x;
    const all = axes?.length ? axes.map((a) => n.axis(a, x.rank)) : x.shape.map((_, i) => i);
    return all.length === 0 ? x : f(x, all, { keepDims: n.int("keepdims", 1) === 1 });
  };
}

/** The product along short axes whose sizes are numbers; no exporter of transformers writes another. */
function product(x: Tensor, axes: readonly number[], { keepDims }: { keepDims: boolean }): Tensor {
  let y = x;
  for (const axis of axes) {
    const size = x.shape[axis]!;
    if (typeof size !== "number" || size < 1 || size > 64)
      throw new EspalierError("onnx-dynamic-shape", `A product along an axis of size ${size} is not supported, only of 1 to 64 elements.`);
    const rows = ops.split(y, size, axis);
    y = rows.reduce((a, b) => ops.mul(a, b));
  }
  return keepDims
    ? y
    : ops.reshape(
        y,
        x.shape.filter((_, i) => !axes.includes(i)),
      );
}

function extreme(f: typeof ops.argMax): Rule {
  return (n) => {
    if (n.int("select_last_index", 0) === 1) throw n.fail("choosing the last of equals (select_last_index) is not supported");
    return f(n.tensor(0), n.int("axis", 0), { keepDims: n.int("keepdims", 1) === 1 });
  };
}

function topK(n: NodeContext): readonly Result[] {
  const [k] = n.ints("k") ?? (n.inputs[1] ? n.numbers(1, "number k") : [n.int("k") ?? Number.NaN]);
  const { values, indices } = ops.topK(n.tensor(0), k!, n.int("axis", -1), { largest: n.int("largest", 1) === 1 });
  return [values, indices];
}

function cumSum(n: NodeContext): Tensor {
  const [at] = n.numbers(1, "axis");
  const x = n.tensor(0);
  const axis = n.axis(at!, x.rank);
  const reversed = n.int("reverse", 0) === 1;
  const source = reversed ? ops.flip(x, axis) : x;
  const sum = ops.cumSum(source, axis);
  // Exclusive: each element is left out of its own sum.
  const result = n.int("exclusive", 0) === 1 ? ops.sub(sum, source) : sum;
  return reversed ? ops.flip(result, axis) : result;
}

/** Before opset 13 the axis divides the tensor into rows of all that follows it. */
function softmax(f: (x: Tensor, axis?: number) => Tensor): Rule {
  return (n) => {
    const x = n.tensor(0);
    if (n.opset >= 13) return f(x, n.axis(n.int("axis", -1), x.rank));
    const axis = n.axis(n.int("axis", 1), x.rank);
    if (axis === x.rank - 1) return f(x, axis);
    const rows: [Dim, Dim] = [sizeOf(x.shape.slice(0, axis)), sizeOf(x.shape.slice(axis))];
    return ops.reshape(f(ops.reshape(x, rows), 1), x.shape);
  };
}

export const reduce: Rules = {
  ReduceSum: reduction(ops.sum),
  ReduceMean: reduction(ops.mean),
  ReduceMax: reduction(ops.max),
  ReduceMin: reduction(ops.min),
  ReduceProd: reduction(product),
  ReduceSumSquare: reduction(ops.sumOfSquares),
  ReduceL1: reduction((x, axes, options) => ops.sum(ops.abs(x), axes, options)),
  ReduceL2: reduction((x, axes, options) => ops.sqrt(ops.sumOfSquares(x, axes, options))),
  ReduceLogSum: reduction((x, axes, options) => ops.log(ops.sum(x, axes, options))),
  ReduceLogSumExp: reduction((x, axes, options) => ops.logSumExp(x, axes, options)),
  ArgMax: extreme(ops.argMax),
  ArgMin: extreme(ops.argMin),
  TopK: topK,
  CumSum: cumSum,
  Softmax: softmax(ops.softmax),
  LogSoftmax: softmax(ops.logSoftmax),
};
