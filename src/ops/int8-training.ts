/**
 * Products with weights that are trained, computed in 8-bit integers: two of the three products of a linear layer's step (Wortsman et al., "Stable and
 * low-precision training for large-scale vision-language models", SwitchBack).
 */
import { type Dim, dimsEqual, type Tensor, type Variable, variableOp } from "../graph/index.ts";
import { computeDtype } from "./compute-dtype.ts";
import { defineOp, type Op, shapeError } from "./define.ts";
import { int64s, node, type Ref, scalar } from "./emission.ts";
import { int8ProductNodes } from "./int8-product.ts";
import { linear, matmul } from "./matmul.ts";
import { reshape } from "./movement.ts";

/** A float32 matrix as int8, and the factor that makes it what it was: its largest magnitude becomes 127. */
const roundMatrixOp = defineOp<{ weight: Tensor }>({
  name: "RoundToInt8",
  type: ({ weight }) => {
    if (weight.dtype !== "float32" || weight.rank !== 2)
      throw shapeError("roundToInt8", { weight }, "the weight must be float32 with two axes");
    return [
      { dtype: "int8", shape: weight.shape },
      { dtype: "float32", shape: [] },
    ];
  },
  emit: ({ weight }) => {
    // Row by row first: ONNX Runtime shares rows out among threads, but not one large reduction. Two reductions read less than Abs writes.
    const over = (op: string) => node(op, [node(op, [weight, int64s([-1])], { keepdims: 0 }), int64s([0])], { keepdims: 0 });
    const largest = node("Max", [over("ReduceMax"), node("Neg", [over("ReduceMin")]), scalar("float32", 1e-30)]);
    const scale = node("Mul", [largest, scalar("float32", 1 / 127)]);
    return [node("QuantizeLinear", [weight, scale, scalar("int8", 0)]), scale];
  },
});

interface Operands {
  x: Tensor;
  /** What the gradient flows to. */
  weight: Tensor;
  /** The same as int8, and its scale. */
  rounded: Tensor;
  scale: Tensor;
  [name: string]: Tensor | undefined;
}

/** x [..., in] · weight [in, out], or with `transpose` weight [out, in]ᵀ. */
const trainedInt8ProductOp: Op<Operands, { transpose: boolean }> = defineOp<Operands, { transpose: boolean }>({
  name: "TrainedInt8Product",
  type: ({ x, weight, rounded, scale }, { transpose }) => {
    const [inner, columns] = (transpose ? [...weight.shape].reverse() : weight.shape) as [Dim, Dim];
    const fail = (reason: string) => shapeError("trainedInt8Product", { x, weight, rounded, scale }, reason);
    if (x.rank < 2 || x.dtype !== "float32") throw fail("x must be float32 with at least two axes");
    if (!dimsEqual(x.shape.at(-1)!, inner)) throw fail(`x has ${x.shape.at(-1)} inputs and the weight ${inner}`);
    return { dtype: "float32", shape: [...x.shape.slice(0, -1), columns] };
  },
  emit: ({ x, rounded, scale }, { transpose }, { provider }) => {
    const weight: Ref = transpose ? node("Transpose", [rounded], { perm: [1, 0] }) : rounded;
    return int8ProductNodes(x, weight, scale, provider);
  },
  // Rounding has slope one here (straight-through). The gradient for x is rounded row by row in its turn; that for the weight is not rounded at all.
  grad: ({ x, weight, rounded, scale }, dy, { transpose }) => {
    const [rows, dRows] = [reshape(x, [-1, x.shape.at(-1)!]), reshape(dy, [-1, dy.shape.at(-1)!])];
    return {
      x: trainedInt8ProductOp({ x: dy, weight, rounded, scale }, { transpose: !transpose }),
      weight: transpose ? matmul(dRows, rows, { transposeA: true }) : matmul(rows, dRows, { transposeA: true }),
    };
  },
});

/**
 * `x` [..., in] times a float32 weight [in, out] (with `transpose` [out, in]) that is rounded to int8 with one scale, anew in each run. Each row of `x`, and
 * of the incoming gradient for the product that gives x its own, is rounded by its largest magnitude; the gradient for the weight is computed in float32.
 */
export function trainedInt8Product(x: Tensor, weight: Tensor, { transpose }: { transpose: boolean }): Tensor {
  const [rounded, scale] = roundMatrixOp.all({ weight }, {}) as [Tensor, Tensor];
  return trainedInt8ProductOp({ x, weight, rounded, scale }, { transpose });
}

/** Below this the work of rounding is more than integers save. */
const smallestSide = 64;

/**
 * `x` [..., in] times the weight of a linear layer, [out, in] (with `layout` "in-out" [in, out]) → [..., out]. Where products are computed in int8, those with
 * matrices that are trained are. Frozen ones are not, nor thin ones as those of LoRA, nor heads over a vocabulary: of a loss's gradient for the logits, most is
 * far smaller than a row's largest.
 */
export function weightProduct(x: Tensor, weight: Tensor, layout: "out-in" | "in-out"): Tensor {
  const transpose = layout === "out-in";
  const [inputs, outputs] = transpose ? [...weight.shape].reverse() : weight.shape;
  const isHead = Number(outputs) > 6 * Number(inputs);
  const isThin = weight.shape.some((side) => Number(side) < smallestSide);
  if (computesInInt8(weight) && !isHead && !isThin) return trainedInt8Product(x, weight, { transpose });
  return transpose ? linear(x, weight) : matmul(x, weight);
}

/** Whether this is a trained float32 variable, and products with such are computed in int8 now. */
export function computesInInt8(weight: Tensor): boolean {
  const { op, attrs } = weight.node;
  return computeDtype() === "int8" && op === variableOp && !(attrs.variable as Variable).frozen && weight.dtype === "float32";
}

/** The nodes that round a weight [out, in] to int8 with a scale for each output → int8 [in, out], float32 [out]: what `int8Linear` takes. */
export function roundedColumns(weight: Ref, outputs: number): { weight: Ref; scale: Ref } {
  const over = (op: string) => node(op, [weight, int64s([-1])], { keepdims: 0 });
  const largest = node("Max", [over("ReduceMax"), node("Neg", [over("ReduceMin")]), scalar("float32", 1e-30)]);
  const scale = node("Mul", [largest, scalar("float32", 1 / 127)]);
  const zeros: Ref = { kind: "literal", dtype: "int8", shape: [outputs], data: new Int8Array(outputs) };
  return { weight: node("Transpose", [node("QuantizeLinear", [weight, scale, zeros], { axis: 0 })], { perm: [1, 0] }), scale };
}
