import { isFloat, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import { agreeToBroadcast } from "../agreement.ts";
import type { NodeContext, Rule, Rules } from "../context.ts";

const unary =
  (f: (x: Tensor) => Tensor): Rule =>
  (n) =>
    f(n.tensor(0));

/** Two operands that broadcast; of a pair of which one is a known number, that one stays a number. */
function pair(n: NodeContext): [ops.Operand, ops.Operand] {
  const b = n.operand(1);
  const a = typeof b === "number" ? n.tensor(0) : n.operand(0);
  agreeToBroadcast(n.value(0).shape, n.value(1).shape);
  return [a, b];
}

const binary =
  (f: (a: ops.Operand, b: ops.Operand) => Tensor): Rule =>
  (n) =>
    f(...pair(n));

const connective =
  (f: (a: Tensor, b: Tensor) => Tensor): Rule =>
  (n) => {
    agreeToBroadcast(n.value(0).shape, n.value(1).shape);
    return f(n.tensor(0), n.tensor(1));
  };

const variadic =
  (f: (a: ops.Operand, b: ops.Operand) => Tensor): Rule =>
  (n) => {
    for (const value of n.inputs) if (value) agreeToBroadcast(n.value(0).shape, value.shape);
    return n.inputs.map((_, i) => n.tensor(i)).reduce((a, b) => f(a, b));
  };

const notEqual = (a: Tensor, b: Tensor): Tensor =>
  ops.logicalOr(ops.logicalAnd(a, ops.logicalNot(b)), ops.logicalAnd(b, ops.logicalNot(a)));

/** Remainder with the divisor's sign, or the dividend's when `fmod` is set. */
function mod(n: NodeContext): Tensor {
  const [x, y] = [n.tensor(0), n.tensor(1)];
  agreeToBroadcast(x.shape, y.shape);
  const quotient = ops.div(x, y);
  const whole = isFloat(x.dtype) ? ops.mul(ops.sign(quotient), ops.floor(ops.abs(quotient))) : quotient;
  const rest = ops.sub(x, ops.mul(whole, y));
  if (n.int("fmod", 0) === 1) return rest;
  return ops.where(ops.less(ops.mul(rest, y), 0), ops.add(rest, y), rest);
}

function power(n: NodeContext): Tensor {
  const [x, exponent] = [n.tensor(0), n.operand(1)];
  if (typeof exponent === "number") return ops.pow(x, exponent);
  agreeToBroadcast(x.shape, exponent.shape);
  const single = n.number(1);
  return single !== undefined && exponent.rank <= x.rank ? ops.pow(x, single) : ops.pow(x, ops.cast(exponent, x.dtype));
}

function clip(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const bound = (name: string, index: number) => n.float(name) ?? n.number(index) ?? n.optional(index);
  const [low, high] = [bound("min", 1), bound("max", 2)];
  // Attributes of old opsets stand for "no bound" with the largest float.
  const bounds = (v: ops.Operand | undefined) => v !== undefined && !(typeof v === "number" && Math.abs(v) >= 3.4e38);
  const above = bounds(low) ? ops.maximum(x, low!) : x;
  return bounds(high) ? ops.minimum(above, high!) : above;
}

const where: Rule = (n) => {
  for (const [i, j] of [
    [0, 1],
    [0, 2],
    [1, 2],
  ] as const)
    agreeToBroadcast(n.value(i).shape, n.value(j).shape);
  const b = n.operand(2);
  return ops.where(n.tensor(0), typeof b === "number" ? n.tensor(1) : n.operand(1), b);
};

/** log(1 + eˣ)-like functions and piecewise ones, by their definitions in the ONNX operator schemas. */
const activations: Rules = {
  LeakyRelu: (n) => {
    const x = n.tensor(0);
    return ops.where(ops.less(x, 0), ops.mul(x, n.float("alpha", 0.01)), x);
  },
  PRelu: (n) => {
    const [x, slope] = [n.tensor(0), n.tensor(1)];
    return ops.where(ops.less(x, 0), ops.mul(x, slope), x);
  },
  Elu: (n) => elu(n.tensor(0), n.float("alpha", 1)),
  Celu: (n) => {
    const alpha = n.float("alpha", 1);
    const x = n.tensor(0);
    return ops.where(ops.less(x, 0), ops.mul(ops.sub(ops.exp(ops.mul(ops.minimum(x, 0), 1 / alpha)), 1), alpha), x);
  },
  Selu: (n) => ops.mul(elu(n.tensor(0), n.float("alpha", 1.6732632423543772)), n.float("gamma", 1.0507009873554805)),
  ThresholdedRelu: (n) => {
    const x = n.tensor(0);
    return ops.where(ops.greater(x, n.float("alpha", 1)), x, 0);
  },
  HardSigmoid: (n) => hardSigmoid(n.tensor(0), n.float("alpha", 0.2), n.float("beta", 0.5)),
  HardSwish: (n) => ops.mul(n.tensor(0), hardSigmoid(n.tensor(0), 1 / 6, 0.5)),
  Mish: unary((x) => ops.mul(x, ops.tanh(ops.softplus(x)))),
  Softsign: unary((x) => ops.div(x, ops.add(ops.abs(x), 1))),
  Gelu: (n) => (n.string("approximate", "none") === "tanh" ? ops.geluTanh(n.tensor(0)) : ops.gelu(n.tensor(0))),
  Swish: (n) => quickGelu(n.tensor(0), n.float("alpha", 1)),
};

// The exponential of what is not chosen must stay finite, or its gradient would be 0·∞.
const elu = (x: Tensor, alpha: number): Tensor => ops.where(ops.less(x, 0), ops.mul(ops.sub(ops.exp(ops.minimum(x, 0)), 1), alpha), x);
const hardSigmoid = (x: Tensor, alpha: number, beta: number): Tensor => ops.clip(ops.add(ops.mul(x, alpha), beta), 0, 1);
const quickGelu = (x: Tensor, alpha: number): Tensor => ops.mul(x, ops.sigmoid(ops.mul(x, alpha)));
const withBias = (n: NodeContext): Tensor => {
  const bias = n.optional(1);
  return bias ? ops.add(n.tensor(0), bias) : n.tensor(0);
};

export const elementwise: Rules = {
  ...activations,
  Add: binary(ops.add),
  Sub: binary(ops.sub),
  Mul: binary(ops.mul),
  Div: binary(ops.div),
  Mod: mod,
  Pow: power,
  Max: variadic(ops.maximum),
  Min: variadic(ops.minimum),
  Sum: variadic(ops.add),
  Mean: (n) =>
    ops.div(
      n.inputs.map((_, i) => n.tensor(i)).reduce((a, b) => ops.add(a, b)),
      n.inputs.length,
    ),
  Equal: binary((a, b) => equal(a, b)),
  Less: binary(ops.less),
  Greater: binary(ops.greater),
  LessOrEqual: binary(ops.lessOrEqual),
  GreaterOrEqual: binary(ops.greaterOrEqual),
  And: connective(ops.logicalAnd),
  Or: connective(ops.logicalOr),
  Xor: connective(notEqual),
  Not: unary(ops.logicalNot),
  Neg: unary(ops.neg),
  Abs: unary(ops.abs),
  Sign: unary(ops.sign),
  Exp: unary(ops.exp),
  Log: unary(ops.log),
  Sqrt: unary(ops.sqrt),
  Reciprocal: unary(ops.reciprocal),
  Sin: unary(ops.sin),
  Cos: unary(ops.cos),
  Tanh: unary(ops.tanh),
  Sigmoid: unary(ops.sigmoid),
  Relu: unary(ops.relu),
  Erf: unary(ops.erf),
  Floor: unary(ops.floor),
  Ceil: unary(ops.ceil),
  Round: unary(ops.round),
  Softplus: unary(ops.softplus),
  IsNaN: unary((x) => ops.logicalNot(ops.equal(x, x))),
  IsInf: (n) => {
    const x = n.tensor(0);
    const [low, high] = [ops.equal(x, Number.NEGATIVE_INFINITY), ops.equal(x, Number.POSITIVE_INFINITY)];
    if (n.int("detect_negative", 1) === 0) return high;
    return n.int("detect_positive", 1) === 0 ? low : ops.logicalOr(low, high);
  },
  Clip: clip,
  Where: where,
  Cast: (n) => ops.cast(n.tensor(0), n.dtype("to")),
  CastLike: (n) => ops.cast(n.tensor(0), n.value(1).dtype),
  Identity: (n) => n.value(0),
  Dropout: (n) => [n.value(0), n.wants(1) ? ops.fill(n.value(0).shape, 1, "bool") : undefined],

  "com.microsoft.Gelu": unary(ops.gelu),
  "com.microsoft.FastGelu": (n) => ops.geluTanh(withBias(n)),
  "com.microsoft.BiasGelu": (n) => ops.gelu(withBias(n)),
  "com.microsoft.QuickGelu": (n) => quickGelu(n.tensor(0), n.float("alpha", 1.702)),
  "com.microsoft.BiasSplitGelu": (n) => {
    const [x, gate] = ops.split(withBias(n), 2);
    return ops.mul(x!, ops.gelu(gate!));
  },
};

/** ONNX Runtime compares bools for equality too; the operator of ours takes numbers. */
function equal(a: ops.Operand, b: ops.Operand): Tensor {
  if (typeof a !== "number" && a.dtype === "bool" && typeof b !== "number") return ops.logicalNot(notEqual(a, b));
  return ops.equal(a, b);
}
