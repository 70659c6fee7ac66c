import { EspalierError, type Tensor, type TypedArray } from "../../graph/index.ts";
import { LinearLayer, Module } from "../../nn/index.ts";
import type { OnnxTensor } from "../../onnx/decode/index.ts";
import type { QuantizedMatrix } from "./plan.ts";

/** A part of a module path that a file's names make up: it holds other modules and parameters, and computes nothing itself. */
export class OnnxScope extends Module {
  forward(): never {
    throw new EspalierError("no-module", `"${this.path}" is a part of an .onnx file's names; its graph is computed as a whole.`);
  }
}

/** A linear layer whose weight stays the integers that the file holds; the file's own nodes compute its product. */
export class OnnxQuantizedLinear extends LinearLayer {
  readonly bias = undefined;
  readonly #compute: (x: Tensor) => Tensor;
  readonly #dense: () => Float32Array;

  constructor(sizes: { inFeatures: number; outFeatures: number }, compute: (x: Tensor) => Tensor, dense: () => Float32Array) {
    super(sizes.inFeatures, sizes.outFeatures);
    this.#compute = compute;
    this.#dense = dense;
  }

  forward(x: Tensor): Tensor {
    return this.#compute(x);
  }

  denseWeight(): Float32Array {
    return this.#dense();
  }
}

/** The weight as float32 values [out, in]. `values` reads a tensor of the file. */
export function denseMatrix(
  { tensor, scale, zero, layout }: QuantizedMatrix,
  { inFeatures, outFeatures }: { inFeatures: number; outFeatures: number },
  values: (tensor: OnnxTensor) => TypedArray,
): Float32Array {
  if (!scale)
    throw new EspalierError(
      "onnx-tensor",
      `The scale of "${tensor.name}" is computed by the graph: its weight cannot be merged with an adapter.`,
    );
  const [q, s, z] = [values(tensor), values(scale), zero && values(zero)] as [Uint8Array, Float32Array, Uint8Array | undefined];
  const dense = new Float32Array(inFeatures * outFeatures);
  if (typeof layout === "object") {
    const { bits, block } = layout;
    const blocks = Math.ceil(inFeatures / block);
    const element = (bytes: Uint8Array, row: number, width: number, k: number): number =>
      bits === 8 ? bytes[row * width + k]! : (bytes[row * width + (k >> 1)]! >> (4 * (k % 2))) & 15;
    const [rowBytes, zeroBytes] = [(blocks * block * bits) / 8, Math.ceil((blocks * bits) / 8)];
    for (let o = 0; o < outFeatures; o++) {
      for (let i = 0; i < inFeatures; i++) {
        const b = Math.floor(i / block);
        const middle = !z ? 2 ** (bits - 1) : zero!.dtype === "uint8" ? element(z, o, zeroBytes, b) : z[o * blocks + b]!;
        dense[o * inFeatures + i] = (element(q, o, rowBytes, i) - middle) * s[o * blocks + b]!;
      }
    }
    return dense;
  }
  if (![1, outFeatures].includes(s.length))
    throw new EspalierError("onnx-tensor", `The scales of "${tensor.name}" are per block: its weight cannot be merged with an adapter.`);
  const at = (t: ArrayLike<number>, o: number) => t[t.length === 1 ? 0 : o]!;
  for (let o = 0; o < outFeatures; o++)
    for (let i = 0; i < inFeatures; i++)
      dense[o * inFeatures + i] = (q[layout === "in-out" ? i * outFeatures + o : o * inFeatures + i]! - (z ? at(z, o) : 0)) * at(s, o);
  return dense;
}
