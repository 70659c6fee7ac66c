/** How a product in 8-bit integers is written in ONNX. */
import { contrib, int64s, node, type Provider, type Ref, scalar } from "./emission.ts";

/**
 * x [..., in] · weight [in, out] in integers, each row of `x` rounded to 8 bits by its largest magnitude. `weight` is int8; `scale`, float32 [] or [out],
 * is what its columns are multiplied by afterwards.
 */
export function int8ProductNodes(x: Ref, weight: Ref, scale: Ref | undefined, provider: Provider): Ref {
  // Each row's largest magnitude becomes 127. A row of zeros must not divide by zero.
  const largest = node("ReduceMax", [node("Abs", [x]), int64s([-1])], { keepdims: 1 });
  const range = node("Max", [largest, scalar("float32", 1e-30)]);
  const relative = node("Div", [x, range]);
  const step = scalar("float32", 1 / 127);
  if (provider !== "webgpu") {
    // Unsigned rows around 128: ONNX Runtime has a vectorised product of uint8 with int8, but none of int8 with int8.
    const middle = scalar("uint8", 128);
    const rows = node("QuantizeLinear", [relative, step, middle]);
    if (provider === "onnx") {
      const sums = node("Cast", [node("MatMulInteger", [rows, weight, middle])], { to: { dtype: "float32" } });
      const product = node("Mul", [sums, node("Mul", [range, step])]);
      return scale ? node("Mul", [product, scale]) : product;
    }
    return node("Mul", [node("MatMulIntegerToFloat", [rows, weight, step, scale ?? scalar("float32", 1), middle], {}, contrib), range]);
  }
  const rows = node("Round", [node("Mul", [relative, scalar("float32", 127)])]);
  const product = node("MatMul", [rows, node("Cast", [weight], { to: { dtype: "float32" } })]);
  const y = node("Mul", [product, node("Mul", [range, step])]);
  return scale ? node("Mul", [y, scale]) : y;
}
