import type { Tensor } from "../graph/index.ts";
import { defineOp, normalizeAxis } from "./define.ts";
import { exp, mul, sub } from "./elementwise.ts";
import { node } from "./emission.ts";
import { sum } from "./reduce.ts";

const softmaxOp = defineOp<{ x: Tensor }, { axis: number }>({
  name: "Softmax",
  type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
  emit: ({ x }, { axis }) => node("Softmax", [x], { axis }),
  grad: ({ y }, dy, { axis }) => ({ x: mul(y, sub(dy, sum(mul(dy, y), axis, { keepDims: true }))) }),
});

/** eˣ / Σ eˣ along an axis. */
export const softmax = (x: Tensor, axis = -1): Tensor => softmaxOp({ x }, { axis: normalizeAxis(axis, x.rank, "Softmax", { x }) });

const logSoftmaxOp = defineOp<{ x: Tensor }, { axis: number }>({
  name: "LogSoftmax",
  type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
  emit: ({ x }, { axis }) => node("LogSoftmax", [x], { axis }),
  grad: ({ y }, dy, { axis }) => ({ x: sub(dy, mul(exp(y), sum(dy, axis, { keepDims: true }))) }),
});

/** log of {@link softmax}, computed without overflow. */
export const logSoftmax = (x: Tensor, axis = -1): Tensor => logSoftmaxOp({ x }, { axis: normalizeAxis(axis, x.rank, "LogSoftmax", { x }) });
