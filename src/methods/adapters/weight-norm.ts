/** The norms that weight-decomposed adaptation divides by (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation"). */
import { type Storage, type Tensor, Variable } from "../../graph/index.ts";
import { add, matmul, maximum, mul, sqrt, stopGradient, sum, transpose } from "../../ops/index.ts";

/** ‖wₒ‖² of every output o of a frozen weight, [out], as a constant: computed from `weight()` [out, in] whenever a program is compiled. */
export function squaredNorms(name: string, outFeatures: number, weight: () => Float32Array): Variable {
  const load = () => rowNorms(weight(), outFeatures).map((norm) => norm * norm);
  const type = { dtype: "float32", shape: [outFeatures] } as const;
  return new Variable(name, type, { kind: "lazy", ...type, load } satisfies Storage, { frozen: true });
}

/** ‖wₒ‖ of every row of a weight [rows, …]. */
export function rowNorms(weight: Float32Array, rows: number): Float32Array {
  const width = weight.length / rows;
  return Float32Array.from({ length: rows }, (_, row) => {
    let squares = 0;
    for (let i = row * width; i < (row + 1) * width; i++) squares += weight[i]! ** 2;
    return Math.sqrt(squares);
  });
}

/**
 * ‖W + s·B·A‖ of every output, [out], from ‖W‖² [out], A·Wᵀ [rank, out], A [rank, in] and B [out, rank]: the sum itself, which is as large as W, is
 * never made. It has no gradient, as the paper's section 4.3 proposes and PEFT has it.
 */
export function adaptedNorm(parts: { squares: Tensor; product: Tensor; a: Tensor; b: Tensor; scaling: number }): Tensor {
  const { squares, product, a, b, scaling } = parts;
  const cross = sum(mul(b, transpose(product)), -1);
  const own = sum(mul(b, matmul(b, matmul(a, a, { transposeB: true }))), -1);
  return stopGradient(sqrt(maximum(add(squares, add(mul(cross, 2 * scaling), mul(own, scaling ** 2))), 0)));
}

/** W ← m·(W + s·B·A)/‖W + s·B·A‖, or W + s·B·A without a magnitude: in float64, rounded once. W [out, in], A [rank, in], B [out, rank], m [out]. */
export function addUpdate(
  weight: Float32Array,
  update: { a: Float32Array; b: Float32Array; rank: number; scaling: number; magnitude?: Float32Array | undefined },
): void {
  const { a, b, rank, scaling, magnitude } = update;
  const inputs = a.length / rank;
  const row = new Float64Array(inputs);
  for (let o = 0; o < b.length / rank; o++) {
    for (let i = 0; i < inputs; i++) row[i] = weight[o * inputs + i]!;
    for (let r = 0; r < rank; r++) {
      const factor = scaling * b[o * rank + r]!;
      for (let i = 0; i < inputs; i++) row[i]! += factor * a[r * inputs + i]!;
    }
    const stretch = magnitude ? magnitude[o]! / Math.sqrt(row.reduce((total, value) => total + value * value, 0)) : 1;
    for (let i = 0; i < inputs; i++) weight[o * inputs + i] = stretch * row[i]!;
  }
}
