import { type DType, shapesEqual, type Tensor } from "../graph/index.ts";
import { defineOp, type Op, shapeError } from "./define.ts";
import { add, exp, mul, sigmoid, sub, tanh } from "./elementwise.ts";
import { contrib, float, node, type Provider, type Ref, scalar } from "./emission.ts";
import { inCache } from "./in-cache.ts";

/** A smooth function of each element. */
interface Smooth {
  name: string;
  value(x: Ref, dtype: DType): Ref;
  /** ONNX Runtime's own operator for it on the CPU, in float32: one pass over memory. */
  fused(x: Ref): Ref;
  /** Its derivative. */
  slope(x: Ref, dtype: DType): Ref;
  /** The derivative of that, in operators, for second derivatives. */
  curvature(x: Tensor): Tensor;
}

const onCpu = (provider: Provider, dtype: DType): boolean => (provider === "cpu" || provider === "wasm") && dtype === "float32";

/** The gradient reads `x` alone: what the value is computed from on the way is neither kept nor shared, and a chain of passes becomes one. */
function smooth({ name, value, fused, slope, curvature }: Smooth): (x: Tensor) => Tensor {
  const gradient: Op<{ x: Tensor; dy: Tensor }, object> = defineOp<{ x: Tensor; dy: Tensor }, object>({
    name: `${name}Gradient`,
    type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
    emit: ({ x, dy }, _attrs, { inputs, provider }) =>
      inCache({ x: { ref: x, type: inputs.x }, dy: { ref: dy, type: inputs.dy } }, provider, (chunk) => [
        gradient({ x: chunk.x!, dy: chunk.dy! }, {}),
      ])?.[0] ?? node("Mul", [slope(x, inputs.x.dtype), dy]),
    grad: ({ x, dy }, v) => ({ x: mul(mul(v, dy), curvature(x)), dy: gradient({ x, dy: v }, {}) }),
  });
  const op = defineOp<{ x: Tensor }, object>({
    name,
    type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
    emit: ({ x }, _attrs, { inputs, provider }) => (onCpu(provider, inputs.x.dtype) ? fused(x) : value(x, inputs.x.dtype)),
    grad: ({ x }, dy) => ({ x: gradient({ x, dy }, {}) }),
  });
  return (x) => op({ x }, {});
}

/** Arithmetic on values of one dtype. */
const arithmetic = (dtype: DType) => {
  const ref = (v: Ref | number) => (typeof v === "number" ? scalar(dtype, v) : v);
  const of = (opType: string) => (a: Ref | number, b: Ref | number) => node(opType, [ref(a), ref(b)]);
  return { plus: of("Add"), minus: of("Sub"), times: of("Mul") };
};

const quickGelu = (x: Ref): Ref => node("QuickGelu", [x], { alpha: float(1) }, contrib);
const sigmoidOf = (x: Ref): Ref => node("Sigmoid", [x]);

/** σ + x·σ·(1 − σ), where y = x·σ is there already. */
function siluSlope(x: Ref, y: Ref, dtype: DType): Ref {
  const { plus, minus, times } = arithmetic(dtype);
  return times(sigmoidOf(x), plus(minus(x, y), 1));
}

const siluValue = (x: Ref): Ref => node("Mul", [x, sigmoidOf(x)]);

function siluCurvature(x: Tensor): Tensor {
  const s = sigmoid(x);
  return mul(mul(s, sub(1, s)), add(mul(x, sub(1, mul(s, 2))), 2));
}

/** x·σ(x), also called swish. */
export const silu = smooth({
  name: "Silu",
  value: siluValue,
  fused: quickGelu,
  slope: (x, dtype) => siluSlope(x, siluValue(x), dtype),
  curvature: siluCurvature,
});

const density = (x: Tensor): Tensor => mul(exp(mul(mul(x, x), -0.5)), 1 / Math.sqrt(2 * Math.PI));

/** Φ(x), the normal distribution function. */
function normalBelow(x: Ref, dtype: DType): Ref {
  const { plus, times } = arithmetic(dtype);
  return times(plus(node("Erf", [times(x, Math.SQRT1_2)]), 1), 0.5);
}

/** x·Φ(x) with the exact normal distribution function. */
export const gelu = smooth({
  name: "Gelu",
  value: (x, dtype) => node("Mul", [x, normalBelow(x, dtype)]),
  fused: (x) => node("Gelu", [x], {}, contrib),
  // Φ + x·φ
  slope: (x, dtype) => {
    const { plus, times } = arithmetic(dtype);
    const bell = node("Exp", [times(times(x, -0.5), x)]);
    return plus(normalBelow(x, dtype), times(times(bell, 1 / Math.sqrt(2 * Math.PI)), x));
  },
  curvature: (x) => mul(density(x), sub(2, mul(x, x))),
});

const [tanhFactor, tanhCube] = [Math.sqrt(2 / Math.PI), 0.044715];

/** k·(x + c·x³) and tanh of it. */
function tanhOf(x: Ref, dtype: DType) {
  const { plus, times } = arithmetic(dtype);
  const inner = times(x, plus(times(times(x, x), tanhFactor * tanhCube), tanhFactor));
  return { inner, t: node("Tanh", [inner]) };
}

/** The tanh approximation of {@link gelu} (`gelu_new`, `gelu_pytorch_tanh`). */
export const geluTanh = smooth({
  name: "GeluTanh",
  value: (x, dtype) => {
    const { plus, times } = arithmetic(dtype);
    return times(times(x, 0.5), plus(tanhOf(x, dtype).t, 1));
  },
  fused: (x) => node("FastGelu", [x], {}, contrib),
  // With u = k·(x + c·x³) and t = tanh u, x·u′ is 3u − 2k·x, and the slope (1 + t)/2 · (1 + (1 − t)·x·u′).
  slope: (x, dtype) => {
    const { plus, minus, times } = arithmetic(dtype);
    const { inner, t } = tanhOf(x, dtype);
    const grown = minus(times(inner, 3), times(x, 2 * tanhFactor));
    return times(times(plus(t, 1), 0.5), plus(times(minus(1, t), grown), 1));
  },
  // (1 − t²)·(u′ + x·u″/2 − x·t·u′²)
  curvature: (x) => {
    const square = mul(x, x);
    const t = tanh(mul(mul(x, add(mul(square, tanhCube), 1)), tanhFactor));
    const first = mul(add(mul(square, 3 * tanhCube), 1), tanhFactor);
    const half = mul(square, 3 * tanhFactor * tanhCube);
    return mul(sub(1, mul(t, t)), sub(add(first, half), mul(mul(x, t), mul(first, first))));
  },
});

type Gated = { gate: Tensor; up: Tensor };

function gatedType(name: string) {
  return ({ gate, up }: Gated) => {
    if (gate.dtype !== up.dtype || !shapesEqual(gate.shape, up.shape))
      throw shapeError(name, { gate, up }, "both must have one type and shape");
    return { dtype: gate.dtype, shape: gate.shape };
  };
}

const gatedSiluGradientOp: Op<Gated & { dy: Tensor }, object> = defineOp<Gated & { dy: Tensor }, object>({
  name: "GatedSiluGradient",
  type: ({ gate }) => [gate, gate].map(({ dtype, shape }) => ({ dtype, shape })),
  emit: ({ gate, up, dy }, _attrs, { inputs, provider }) => {
    const cut = { gate: { ref: gate, type: inputs.gate }, up: { ref: up, type: inputs.up }, dy: { ref: dy, type: inputs.dy } };
    const chunked = inCache(cut, provider, (chunk) => gatedSiluGradientOp.all(chunk as Gated & { dy: Tensor }, {}));
    if (chunked) return chunked;
    const { dtype } = inputs.gate;
    const { times } = arithmetic(dtype);
    const y = onCpu(provider, dtype) ? quickGelu(gate) : siluValue(gate);
    return [times(times(dy, up), siluSlope(gate, y, dtype)), times(dy, y)];
  },
  grad: ({ gate, up, dy }, _dy, _attrs, [v, w]) => {
    // Of v·dGate + w·dUp = v·dy·up·s′(gate) + w·dy·s(gate).
    const s = sigmoid(gate);
    const value = mul(gate, s);
    const slope = mul(s, add(sub(gate, value), 1));
    const total = (parts: (Tensor | undefined)[]) => parts.flatMap((t) => t ?? []).reduce((a, b) => add(a, b));
    return {
      gate: total([v && mul(mul(mul(v, dy), up), siluCurvature(gate)), w && mul(mul(w, dy), slope)]),
      up: v && mul(mul(v, dy), slope),
      dy: total([v && mul(mul(v, up), slope), w && mul(w, value)]),
    };
  },
});

const gatedSiluOp = defineOp<Gated, object>({
  name: "GatedSilu",
  type: gatedType("GatedSilu"),
  emit: ({ gate, up }, _attrs, { inputs, provider }) =>
    node("Mul", [onCpu(provider, inputs.gate.dtype) ? quickGelu(gate) : siluValue(gate), up]),
  grad: ({ gate, up }, dy) => {
    const [dGate, dUp] = gatedSiluGradientOp.all({ gate, up, dy }, {}) as [Tensor, Tensor];
    return { gate: dGate, up: dUp };
  },
});

/** silu(gate) · up, of one shape (Shazeer, "GLU Variants Improve Transformer"). */
export const gatedSilu = (gate: Tensor, up: Tensor): Tensor => gatedSiluOp({ gate, up }, {});
