import type { DType } from "../../graph/index.ts";
import { onnxType } from "../model.ts";

const codes = new Map(Object.entries(onnxType).map(([dtype, code]) => [code, dtype as DType]));

/**
 * The element type that a graph is rebuilt in for a type of onnx.proto: 16-bit floats are computed in float32, which the CPU has kernels (and
 * gradients enough precision) for. Undefined for a type that is not supported.
 */
export function dtypeOf(code: number): DType | undefined {
  const dtype = codes.get(code);
  return dtype === "float16" || dtype === "bfloat16" ? "float32" : dtype;
}
