/** The norms that weight-decomposed adaptation divides by (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation"). */
import { type Storage, type Tensor, Variable } from "../../graph/index.ts";
import { add, matmul, maximum, mul, sqrt, stopGradient, sum, transpose } from "../../ops/index.ts";

/** One number of every output, [outputs], as a constant that is computed whenever a program is compiled. */
export function computedConstant(name: string, outputs: number, load: () => Float32Array): Variable {
  const type = { dtype: "float32", shape: [outputs] } as const;
  return new Variable(name, type, { kind: "lazy", ...type, load } satisfies Storage, { frozen: true });
}

/** ‖wₒ‖² of every output o of a frozen weight. `weight()` [out, in]. */
export const squaredNorms = (name: string, outputs: number, weight: () => Float32Array): Variable =>
  computedConstant(name, outputs, () => rowNorms(weight(), outputs).map((norm) => norm * norm));

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

/** A low-rank update: s·B·A with A [rank, in] and B [out, rank]. */
export interface Update {
  a: Float32Array;
  b: Float32Array;
  rank: number;
  scaling: number;
}

/** W ← W + s·B·A, or with a magnitude m [out] W ← m·(W + s·B·A)/‖W + s·B·A‖: in float64, rounded once. W [out, in]. */
export function addUpdate(weight: Float32Array, update: Update, magnitude?: Float32Array): void {
  eachUpdatedRow(weight, update, (row, o) => {
    const stretch = magnitude ? magnitude[o]! / norm(row) : 1;
    for (let i = 0; i < row.length; i++) weight[o * row.length + i] = stretch * row[i]!;
  });
}

/** m/‖W + s·B·A‖ of every output, [out]. */
export function stretches(weight: Float32Array, update: Update, magnitude: Float32Array): Float32Array {
  const result = new Float32Array(magnitude.length);
  eachUpdatedRow(weight, update, (row, o) => {
    result[o] = magnitude[o]! / norm(row);
  });
  return result;
}

const norm = (row: Float64Array): number => Math.sqrt(row.reduce((total, value) => total + value * value, 0));

/** The rows of W + s·B·A. A row counts until the next one. */
function eachUpdatedRow(weight: Float32Array, { a, b, rank, scaling }: Update, take: (row: Float64Array, o: number) => void): void {
  const inputs = a.length / rank;
  const row = new Float64Array(inputs);
  for (let o = 0; o < b.length / rank; o++) {
    for (let i = 0; i < inputs; i++) row[i] = weight[o * inputs + i]!;
    for (let r = 0; r < rank; r++) {
      const factor = scaling * b[o * rank + r]!;
      for (let i = 0; i < inputs; i++) row[i]! += factor * a[r * inputs + i]!;
    }
    take(row, o);
  }
}
