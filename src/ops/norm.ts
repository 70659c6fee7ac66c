import { dimsEqual, type Tensor } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { add, div, mul, sub } from "./elementwise.ts";
import { float, int64s, node, result, scalar } from "./emission.ts";
import { mean, sumTo } from "./reduce.ts";

const rmsNormOp = defineOp<{ x: Tensor; weight: Tensor }, { epsilon: number }>({
  name: "RMSNorm",
  type: ({ x, weight }) => {
    if (weight.rank !== 1 || x.rank < 1 || !dimsEqual(weight.shape[0]!, x.shape.at(-1)!))
      throw shapeError("RMSNorm", { x, weight }, "the weight must be as long as the last axis of x");
    return [
      { dtype: x.dtype, shape: x.shape },
      { dtype: x.dtype, shape: [...x.shape.slice(0, -1), 1] },
    ];
  },
  emit: ({ x, weight }, { epsilon }, { provider, inputs }) => {
    if (provider === "webgpu" || inputs.x.dtype === "float64") {
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
