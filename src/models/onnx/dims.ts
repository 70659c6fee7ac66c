import { addDims, type Dim, mulDims, type Shape, symbol } from "../../graph/index.ts";
import type { OnnxValueInfo } from "../../onnx/decode/index.ts";

/**
 * The shape that a file declares for a value, as dims: names become symbols, and sums and products of them ("past + sequence") polynomials. A dimension
 * without a name gets one of its own.
 */
export function declaredShape({ name, shape }: OnnxValueInfo): Shape {
  return (shape ?? []).map((d, axis) => (typeof d === "number" && d >= 0 ? d : (parseDim(d) ?? symbol(identifier(`${name}_${axis}`)))));
}

const identifier = (name: string): string => name.replace(/\W+/g, "_").replace(/^(?=\d)/, "_");

function parseDim(text: number | string | undefined): Dim | undefined {
  if (typeof text !== "string") return undefined;
  const terms = text.split("+").map((term) => term.split("*").map((factor) => factor.trim()));
  const isPolynomial = terms.every((factors) => factors.every((f) => /^([A-Za-z_]\w*|\d+)$/.test(f)));
  if (!isPolynomial) return symbol(identifier(text));
  const value = (factor: string): Dim => (/^\d/.test(factor) ? Number(factor) : symbol(factor));
  return terms.map((factors) => factors.map(value).reduce(mulDims)).reduce(addDims);
}
