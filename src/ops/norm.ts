import { type Dim, dimsEqual, divDims, mulDims, shapesEqual, sizeOf, type Tensor } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { add, div, mul, sub } from "./elementwise.ts";
import { float, int64s, node, result, scalar } from "./emission.ts";
import { fill, reshape } from "./movement.ts";
import { mean, sumTo } from "./reduce.ts";

const rmsNormOp = defineOp<{ x: Tensor; weight: Tensor }, { epsilon: number }>({
  name: "RMSNorm",
  type: ({ x, weight }) => {
    if (weight.rank !== 1 || x.rank < 1 || !dimsEqual(weight.shape[0]!, x.shape.at(-1)!))
      throw shapeError("RMSNorm", { x, weight }, "the weight must be as long as the last axis of x");
    if (weight.dtype !== x.dtype) throw shapeError("RMSNorm", { x, weight }, "the weight must have the dtype of x; cast one of them");
    return [
      { dtype: x.dtype, shape: x.shape },
      { dtype: x.dtype, shape: [...x.shape.slice(0, -1), 1] },
    ];
  },
  emit: ({ x, weight }, { epsilon }, { provider, inputs }) => {
    if (provider === "webgpu" || provider === "onnx" || inputs.x.dtype === "float64") {
      const square = node("Mul", [x, x]);
      const meanSquare = node("ReduceMean", [square, int64s([-1])], { keepdims: 1 });
      const inverse = node("Reciprocal", [node("Sqrt", [node("Add", [meanSquare, scalar(inputs.x.dtype, epsilon)])])]);
      return [node("Mul", [node("Mul", [x, inverse]), weight]), inverse];
    }
    const y = node("SimplifiedLayerNormalization", [x, weight], { axis: -1, epsilon: float(epsilon), stash_type: 1 }, { outputs: 2 });
    return [y, result(y, 1)];
  },
  // With r = 1/rms and g = dy·w:  dx = r·(g − x·r²·mean(g·x)),  dw = Σ dy·x·r
  grad: ({ x, weight, outputs }, dy, _attrs, [, dr]) => {
    const r = outputs[1]!;
    const g = mul(dy, weight);
    const along = mean(mul(g, x), -1, { keepDims: true });
    // r has a gradient of its own only in second derivatives, because this gradient reads it: dr/dx = −x·r³/n.
    const coefficient = mul(mul(mul(r, r), r), dr ? add(along, div(dr, x.shape.at(-1) as number)) : along);
    return { x: sub(mul(g, r), mul(x, coefficient)), weight: sumTo(mul(mul(dy, x), r), weight.shape) };
  },
});

/** x / √(mean(x²) + ε) · weight over the last axis (Zhang and Sennrich, "Root Mean Square Layer Normalization"). */
export const rmsNorm = (x: Tensor, weight: Tensor, epsilon = 1e-6): Tensor => rmsNormOp({ x, weight }, { epsilon });

type LayerNormInputs = { x: Tensor; weight: Tensor; bias: Tensor | undefined };

const layerNormOp = defineOp<LayerNormInputs, { epsilon: number }>({
  name: "LayerNorm",
  type: ({ x, weight, bias }) => {
    const operands = { x, weight, bias };
    const normalized = x.shape.slice(x.rank - weight.rank);
    if (weight.rank < 1 || weight.rank > x.rank || !shapesEqual(weight.shape, normalized))
      throw shapeError("LayerNorm", operands, "the weight must have the shape of the last axes of x, those that are normalised");
    if (bias && !shapesEqual(bias.shape, weight.shape))
      throw shapeError("LayerNorm", operands, "the bias must have the shape of the weight");
    if (x.dtype !== weight.dtype || (bias && bias.dtype !== x.dtype))
      throw shapeError("LayerNorm", operands, "the operands must have one dtype");
    const statistics = { dtype: x.dtype, shape: [...x.shape.slice(0, x.rank - weight.rank), ...weight.shape.map(() => 1)] };
    return [{ dtype: x.dtype, shape: x.shape }, statistics, statistics];
  },
  // Results: y, the mean and 1/√(variance + ε).
  emit: ({ x, weight, bias }, { epsilon }, { provider, inputs }) => {
    if (provider === "webgpu" || inputs.x.dtype !== "float32") {
      const axes = int64s(inputs.weight.shape.map((_, i) => i - inputs.weight.rank));
      const center = node("ReduceMean", [x, axes], { keepdims: 1 });
      const centered = node("Sub", [x, center]);
      const variance = node("ReduceMean", [node("Mul", [centered, centered]), axes], { keepdims: 1 });
      const inverse = node("Reciprocal", [node("Sqrt", [node("Add", [variance, scalar(inputs.x.dtype, epsilon)])])]);
      const scaled = node("Mul", [node("Mul", [centered, inverse]), weight]);
      return [bias ? node("Add", [scaled, bias]) : scaled, center, inverse];
    }
    const y = node(
      "LayerNormalization",
      [x, weight, bias],
      { axis: -inputs.weight.rank, epsilon: float(epsilon), stash_type: 1 },
      { outputs: 3 },
    );
    return [y, result(y, 1), result(y, 2)];
  },
  // With x̂ = (x − mean)·r and g = dy·w:  dx = r·(g − mean(g) − x̂·mean(g·x̂))
  grad: ({ x, weight, bias, outputs }, dy, _attrs, [, dCenter, dr]) => {
    const [, center, r] = outputs as [Tensor, Tensor, Tensor];
    const axes = weight.shape.map((_, i) => i - weight.rank);
    const average = (t: Tensor) => mean(t, axes, { keepDims: true });
    const normalized = mul(sub(x, center), r);
    const g = mul(dy, weight);
    const direct = mul(r, sub(sub(g, average(g)), mul(normalized, average(mul(g, normalized)))));
    // The statistics have gradients of their own only in second derivatives, because this gradient reads them.
    const count = sizeOf(weight.shape) as number;
    const throughCenter = dCenter ? add(direct, div(dCenter, count)) : direct;
    const throughR = dr ? sub(throughCenter, mul(normalized, div(mul(dr, mul(r, r)), count))) : throughCenter;
    return { x: throughR, weight: sumTo(mul(dy, normalized), weight.shape), bias: bias && sumTo(dy, bias.shape) };
  },
});

/** (x − mean) / √(variance + ε) · weight + bias over the last axes, those of the weight (Ba et al., "Layer Normalization"). */
export const layerNorm = (x: Tensor, weight: Tensor, bias?: Tensor, epsilon = 1e-5): Tensor =>
  layerNormOp({ x, weight, bias }, { epsilon });

/**
 * Normalises each group of neighbouring channels of `x` [batch, channels, …] over all its places; `weight` and `bias` [channels]
 * (Wu and He, "Group Normalization").
 */
export function groupNorm(x: Tensor, groups: number, weight?: Tensor, bias?: Tensor, epsilon = 1e-5): Tensor {
  const operands = { x, weight, bias };
  const [batch, channels, ...places] = x.shape as [Dim, Dim, ...Dim[]];
  const perGroup = x.rank < 2 ? undefined : divDims(channels, groups);
  if (perGroup === undefined) throw shapeError("GroupNorm", operands, `the channels do not fall into ${groups} equal groups`);
  for (const t of [weight, bias])
    if (t && !shapesEqual(t.shape, [channels]))
      throw shapeError("GroupNorm", operands, "weight and bias must have one element per channel");
  const grouped = reshape(x, [batch, groups, mulDims(perGroup, sizeOf(places))]);
  const normalized = reshape(layerNorm(grouped, fill([grouped.shape[2]!], 1, x.dtype), undefined, epsilon), x.shape);
  const perChannel = (t: Tensor) => reshape(t, [channels, ...places.map(() => 1)]);
  const scaled = weight ? mul(normalized, perChannel(weight)) : normalized;
  return bias ? add(scaled, perChannel(bias)) : scaled;
}
