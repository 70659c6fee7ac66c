import { currentGraph, type DType, dimsEqual, isFloat, type Shape, shapesEqual, type Tensor, type TensorType } from "../graph/index.ts";
import { defineOp, type Op, shapeError } from "./define.ts";
import { node, type Provider, type Ref, scalar, scalarData } from "./emission.ts";
import { onesLike } from "./movement.ts";
import { sumTo } from "./reduce.ts";

/** A tensor, or a number that takes the dtype of the other operand. */
export type Operand = Tensor | number;

/** NumPy broadcasting of two shapes, or undefined where they do not fit. */
export function broadcastShapes(a: Shape, b: Shape): Shape | undefined {
  const rank = Math.max(a.length, b.length);
  const shape = [];
  for (let i = 0; i < rank; i++) {
    const da = a[i - rank + a.length] ?? 1;
    const db = b[i - rank + b.length] ?? 1;
    if (da !== 1 && db !== 1 && !dimsEqual(da, db)) return undefined;
    shape.push(da === 1 ? db : da);
  }
  return shape;
}

type Binary = { a: Tensor; b: Tensor };

function binaryType(name: string, result?: DType): (inputs: Binary) => TensorType {
  return ({ a, b }) => {
    if (a.dtype !== b.dtype) throw shapeError(name, { a, b }, "the operands must have one dtype; cast one of them");
    const shape = broadcastShapes(a.shape, b.shape);
    if (!shape) throw shapeError(name, { a, b }, "the shapes do not broadcast");
    return { dtype: result ?? a.dtype, shape };
  };
}

function binary(name: string, partials: (a: Tensor, b: Tensor, y: Tensor, dy: Tensor) => [() => Tensor, () => Tensor]): Op<Binary, object> {
  return defineOp<Binary, object>({
    name,
    type: binaryType(name),
    emit: ({ a, b }) => node(name, [a, b]),
    grad: ({ a, b, y }, dy) => {
      const [da, db] = partials(a, b, y, dy);
      return { a: sumTo(da(), a.shape), b: sumTo(db(), b.shape) };
    },
  });
}

const addOp = binary("Add", (_a, _b, _y, dy) => [() => dy, () => dy]);
const subOp = binary("Sub", (_a, _b, _y, dy) => [() => dy, () => neg(dy)]);
const mulOp = binary("Mul", (a, b, _y, dy) => [() => mul(dy, b), () => mul(dy, a)]);
const divOp = binary("Div", (_a, b, y, dy) => [() => div(dy, b), () => neg(div(mul(dy, y), b))]);
const powOp = binary("Pow", (a, b, y, dy) => [() => mul(dy, mul(b, pow(a, sub(b, 1)))), () => mul(dy, mul(y, log(a)))]);
// Where both operands are equal the gradient goes to the first one alone.
const maximumOp = binary("Max", (a, b, _y, dy) => [() => where(greaterOrEqual(a, b), dy, 0), () => where(less(a, b), dy, 0)]);
const minimumOp = binary("Min", (a, b, _y, dy) => [() => where(lessOrEqual(a, b), dy, 0), () => where(greater(a, b), dy, 0)]);

/** A number as a scalar tensor of the graph being traced. */
export function scalarTensor(value: number, dtype: DType): Tensor {
  return currentGraph().constant(dtype, [], scalarData(dtype, value));
}

function pair(a: Operand, b: Operand): Binary {
  if (typeof a === "number" && typeof b === "number") return { a: scalarTensor(a, "float32"), b: scalarTensor(b, "float32") };
  if (typeof a === "number") return { a: scalarTensor(a, (b as Tensor).dtype), b: b as Tensor };
  return { a, b: typeof b === "number" ? scalarTensor(b, a.dtype) : b };
}

export const add = (a: Operand, b: Operand): Tensor => (b === 0 && typeof a !== "number" ? a : addOp(pair(a, b), {}));
export const sub = (a: Operand, b: Operand): Tensor => subOp(pair(a, b), {});
export const mul = (a: Operand, b: Operand): Tensor => (b === 1 && typeof a !== "number" ? a : mulOp(pair(a, b), {}));
export const div = (a: Operand, b: Operand): Tensor => (b === 1 && typeof a !== "number" ? a : divOp(pair(a, b), {}));
/** `a` to the power `b`. A constant exponent has no gradient of its own, so a negative base is safe there. */
export function pow(a: Operand, b: Operand): Tensor {
  if (typeof b !== "number" || typeof a === "number") return powOp(pair(a, b), {});
  if (b === 0) return onesLike(a); // whose gradient is 0, where 0·x⁻¹ would be NaN at zero
  return b === 1 ? a : b === 2 ? mul(a, a) : powConstant({ x: a }, { exponent: b });
}
export const maximum = (a: Operand, b: Operand): Tensor => maximumOp(pair(a, b), {});
export const minimum = (a: Operand, b: Operand): Tensor => minimumOp(pair(a, b), {});

function comparison(name: string): (a: Operand, b: Operand) => Tensor {
  const op = defineOp<Binary, object>({ name, type: binaryType(name, "bool"), emit: ({ a, b }) => node(name, [a, b]) });
  return (a, b) => op(pair(a, b), {});
}
function connective(name: string): (a: Tensor, b: Tensor) => Tensor {
  const type = binaryType(name);
  const op = defineOp<Binary, object>({
    name,
    type: ({ a, b }) => {
      if (a.dtype !== "bool" || b.dtype !== "bool")
        throw shapeError(name, { a, b }, "both operands must be bool; compare them with something");
      return type({ a, b });
    },
    emit: ({ a, b }) => node(name, [a, b]),
  });
  return (a, b) => op({ a, b }, {});
}
/** Comparisons give `bool` tensors and have no gradient. */
export const equal = comparison("Equal");
export const less = comparison("Less");
export const greater = comparison("Greater");
export const lessOrEqual = comparison("LessOrEqual");
export const greaterOrEqual = comparison("GreaterOrEqual");
export const logicalAnd = connective("And");
export const logicalOr = connective("Or");

type Unary = { x: Tensor };

function unary(
  name: string,
  gradient: ((x: Tensor, y: Tensor, dy: Tensor) => Tensor) | undefined,
  emit = (x: Ref, _type: TensorType, _provider: Provider): Ref => node(name, [x]),
): (x: Tensor) => Tensor {
  const op = defineOp<Unary, object>({
    name,
    type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
    emit: ({ x }, _attrs, { inputs, provider }) => emit(x, inputs.x, provider),
    ...(gradient && { grad: ({ x, y }, dy) => ({ x: gradient(x, y, dy) }) }),
  });
  return (x) => op({ x }, {});
}

/**
 * sin x (phase 0) or cos x (phase ½). Graphics processors compute both to three or four digits, and to none for large x.
 * x = (k + phase)·π + r with |r| ≤ π/2 leaves ±sin r, for which a few terms of the series give float32's whole accuracy.
 */
function sineByPolynomial(x: Ref, dtype: DType, phase: 0 | 0.5): Ref {
  const number = (value: number) => scalar(dtype, value);
  const k = node("Round", [node("Sub", [node("Mul", [x, number(1 / Math.PI)]), number(phase)])]);
  const turns = node("Add", [k, number(phase)]);
  // π in three parts of few digits each, so that their products with k are exact (Cody and Waite).
  const r = [3.140625, 9.675025939941406e-4, 1.5099579909783765e-7].reduce(
    (rest, part) => node("Sub", [rest, node("Mul", [turns, number(part)])]),
    x,
  );
  const square = node("Mul", [r, r]);
  const series = [1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1].reduce<Ref>(
    (total, c) => node("Add", [node("Mul", [total, square]), number(c)]),
    number(-1 / 39916800),
  );
  const half = node("Mul", [k, number(0.5)]);
  const odd = node("Sub", [half, node("Floor", [half])]); // 0 or ½
  const sign = node("Sub", [number(phase === 0 ? 1 : -1), node("Mul", [odd, number(phase === 0 ? 4 : -4)])]);
  return node("Mul", [node("Mul", [r, series]), sign]);
}

const powConstant = defineOp<Unary, { exponent: number }>({
  name: "PowConstant",
  type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
  emit: ({ x }, { exponent }, { inputs }) => node("Pow", [x, scalar(inputs.x.dtype, exponent)]),
  grad: ({ x }, dy, { exponent }) => ({ x: mul(mul(dy, exponent), pow(x, exponent - 1)) }),
});

export const neg = unary("Neg", (_x, _y, dy) => neg(dy));
export const exp = unary("Exp", (_x, y, dy) => mul(dy, y));
export const log = unary("Log", (x, _y, dy) => div(dy, x));
export const sqrt = unary("Sqrt", (_x, y, dy) => div(mul(dy, 0.5), y));
export const reciprocal = unary("Reciprocal", (_x, y, dy) => neg(mul(dy, mul(y, y))));
export const abs = unary("Abs", (x, _y, dy) => mul(dy, sign(x)));
export const sign = unary("Sign", undefined);
export const sin = unary(
  "Sin",
  (x, _y, dy) => mul(dy, cos(x)),
  (x, type, provider) => (provider === "webgpu" ? sineByPolynomial(x, type.dtype, 0) : node("Sin", [x])),
);
export const cos = unary(
  "Cos",
  (x, _y, dy) => neg(mul(dy, sin(x))),
  (x, type, provider) => (provider === "webgpu" ? sineByPolynomial(x, type.dtype, 0.5) : node("Cos", [x])),
);
export const tanh = unary("Tanh", (_x, y, dy) => mul(dy, sub(1, mul(y, y))));
export const sigmoid = unary("Sigmoid", (_x, y, dy) => mul(dy, mul(y, sub(1, y))));
export const relu = unary("Relu", (x, _y, dy) => where(greater(x, 0), dy, 0));
export const erf = unary("Erf", (x, _y, dy) => mul(dy, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI))));
export const floor = unary("Floor", undefined);
export const ceil = unary("Ceil", undefined);
/** To the nearest integer, halves to even. No gradient; see {@link straightThrough}. */
export const round = unary("Round", undefined);
const notOp = defineOp<Unary, object>({
  name: "Not",
  type: ({ x }) => {
    if (x.dtype !== "bool") throw shapeError("Not", { x }, "the operand must be bool; compare it with something");
    return { dtype: x.dtype, shape: x.shape };
  },
  emit: ({ x }) => node("Not", [x]),
});
export const logicalNot = (x: Tensor): Tensor => notOp({ x }, {});
/** log(1 + eˣ), computed without overflow. */
export const softplus = unary(
  "Softplus",
  (x, _y, dy) => mul(dy, sigmoid(x)),
  (x, { dtype }) =>
    node("Add", [
      node("Max", [x, scalar(dtype, 0)]),
      node("Log", [node("Add", [node("Exp", [node("Neg", [node("Abs", [x])])]), scalar(dtype, 1)])]),
    ]),
);

const softcapOp = defineOp<Unary, { cap: number }>({
  name: "Softcap",
  type: ({ x }, { cap }) => {
    if (!(cap > 0)) throw shapeError("Softcap", { x }, `the cap must be above 0, got ${cap}`);
    return { dtype: x.dtype, shape: x.shape };
  },
  emit: ({ x }, { cap }, { inputs }) => {
    const number = (value: number) => scalar(inputs.x.dtype, value);
    return node("Mul", [node("Tanh", [node("Mul", [x, number(1 / cap)])]), number(cap)]);
  },
  grad: ({ y }, dy, { cap }) => ({ x: mul(dy, sub(1, mul(mul(y, y), 1 / cap ** 2))) }),
});

/** cap·tanh(x/cap): keeps x within ±cap, and leaves what is much smaller as it is (Gemma Team, "Gemma 2"). */
export const softcap = (x: Tensor, cap: number): Tensor => softcapOp({ x }, { cap });

const whereOp = defineOp<{ condition: Tensor; a: Tensor; b: Tensor }, object>({
  name: "Where",
  type: ({ condition, a, b }) => {
    if (condition.dtype !== "bool") throw shapeError("Where", { condition, a, b }, "the condition must be bool");
    if (a.dtype !== b.dtype) throw shapeError("Where", { condition, a, b }, "both values must have one dtype; cast one of them");
    const values = broadcastShapes(a.shape, b.shape);
    const shape = values && broadcastShapes(condition.shape, values);
    if (!shape) throw shapeError("Where", { condition, a, b }, "the shapes do not broadcast");
    return { dtype: a.dtype, shape };
  },
  emit: ({ condition, a, b }) => node("Where", [condition, a, b]),
  grad: ({ condition, a, b }, dy) => ({ a: sumTo(where(condition, dy, 0), a.shape), b: sumTo(where(condition, 0, dy), b.shape) }),
});

/** `a` where the condition holds, else `b`. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  return whereOp({ condition, ...pair(a, b) }, {});
}

/** `x` kept between `low` and `high`; the gradient is zero outside. */
export function clip(x: Tensor, low: number, high: number): Tensor {
  return minimum(maximum(x, low), high);
}

const castOp = defineOp<Unary, { dtype: DType }>({
  name: "Cast",
  type: ({ x }, { dtype }) => ({ dtype, shape: x.shape }),
  emit: ({ x }, { dtype }) => node("Cast", [x], { to: { dtype } }),
  grad: ({ x }, dy) => ({ x: isFloat(x.dtype) ? cast(dy, x.dtype) : undefined }),
});

/** Converts the elements; casting a float to an integer truncates towards zero. */
export const cast = (x: Tensor, dtype: DType): Tensor => (x.dtype === dtype ? x : castOp({ x }, { dtype }));

const stopGradientOp = defineOp<Unary, object>({
  name: "StopGradient",
  type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
  emit: ({ x }) => x,
});

/** The value of `x`, through which no gradient flows. */
export const stopGradient = (x: Tensor): Tensor => stopGradientOp({ x }, {});

const straightThroughOp = defineOp<{ x: Tensor; value: Tensor }, object>({
  name: "StraightThrough",
  type: ({ x, value }) => {
    if (x.dtype !== value.dtype || !shapesEqual(x.shape, value.shape))
      throw shapeError("StraightThrough", { x, value }, "both must have one type and shape");
    return { dtype: x.dtype, shape: x.shape };
  },
  emit: ({ value }) => value,
  grad: (_values, dy) => ({ x: dy }),
});

/** The value of `value` with the gradient of `x` (straight-through estimator): `straightThrough(x, round(x))`. */
export const straightThrough = (x: Tensor, value: Tensor): Tensor => straightThroughOp({ x, value }, {});
