/** Matrix products in fewer bits: in 16 as graphics processors compute them best, in 8 as processors do. Everything else stays in float32. */
import type { Tensor } from "../graph/index.ts";
import { cast } from "./elementwise.ts";

/** What matrix products are computed in. */
export const computeDtypes = ["float32", "float16", "bfloat16", "int8"] as const;
export type ComputeDtype = (typeof computeDtypes)[number];

let present: ComputeDtype = "float32";

/** The type that products traced now are computed in. */
export const computeDtype = (): ComputeDtype => present;

/**
 * Traces `fn` with the matrix products of float32 tensors, and those of their gradients, computed in `dtype` (Micikevicius et al., "Mixed Precision
 * Training"): their operands are rounded to it, and their results widened. Weights, sums, softmax, norms and losses stay in float32.
 *
 * "int8" is for products with trained weights alone: see {@link weightProduct}.
 */
export function computingIn<T>(dtype: ComputeDtype, fn: () => T): T {
  const before = present;
  present = dtype;
  try {
    return fn();
  } finally {
    present = before;
  }
}

/** Whether every product of float32 tensors traced now is computed in 16 bits. */
export const isIn16Bits = (): boolean => present === "float16" || present === "bfloat16";

/** A product of float32 tensors in the type that products are computed in; of other tensors, as it is. */
export function narrowProduct(a: Tensor, b: Tensor, product: (a: Tensor, b: Tensor) => Tensor): Tensor {
  if (!isIn16Bits() || a.dtype !== "float32" || b.dtype !== "float32") return product(a, b);
  return cast(product(narrowed(a, present), narrowed(b, present)), "float32");
}

/** Rounded to `dtype`; what was widened from it is taken as it was before. */
function narrowed(x: Tensor, dtype: ComputeDtype): Tensor {
  const before = beforeCast(x);
  return before.dtype === dtype ? before : cast(x, dtype);
}

/** The operand of a change of type. */
export const beforeCast = (x: Tensor): Tensor => (x.node.op.name === "Cast" ? x.node.inputs.x! : x);
