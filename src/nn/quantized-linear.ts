import { elementCount, read, type Storage, type Tensor, type TypedArray, Variable } from "../graph/index.ts";
import { add, blockLinear, int8Linear } from "../ops/index.ts";
import { type Linear, LinearLayer } from "./layers.ts";
import type { Parameter } from "./module.ts";
import { blockSize, dequantize, type Quantized, type QuantizedDType, rowQuantizer } from "./quantize.ts";

/** Hands on a storage's values as float32, part by part; a part counts until the next one. */
export type FloatStream = (storage: Storage, take: (values: Float32Array) => void) => void;

/**
 * A frozen Linear whose weight is stored in 8 or 4 bits and computed with as it is: no float copy of it is kept. The weight is no parameter, so
 * nothing can train it; the bias stays one.
 */
export class QuantizedLinear extends LinearLayer {
  readonly bias: Parameter | undefined;
  readonly dtype: QuantizedDType;
  readonly #weight: Variable;
  readonly #scale: Variable;

  /** Values in memory are quantised now, so that the floats can go; those of a file whenever they are asked for. */
  constructor(linear: Linear, dtype: QuantizedDType, stream: FloatStream) {
    super(linear.inFeatures, linear.outFeatures, linear.layout);
    const { inFeatures, outFeatures } = this;
    this.dtype = dtype;
    this.bias = linear.bias;
    const { storage, name } = linear.weight;
    const rows = linear.layout === "out-in" ? streamRows : columnsOf;
    const quantize = (): Quantized => {
      const quantizer = rowQuantizer(dtype, inFeatures, outFeatures);
      rows(storage, stream, inFeatures, (row) => quantizer.add(row));
      return quantizer;
    };
    const block = dtype === "int8" ? undefined : blockSize(dtype, inFeatures);
    const weight = {
      dtype: block ? "uint8" : "int8",
      shape: block ? [outFeatures, inFeatures / block, block / 2] : [inFeatures, outFeatures],
    } as const;
    const scale = { dtype: "float32", shape: block ? weight.shape.slice(0, 2) : [outFeatures] } as const;
    const held = isHeld(storage) ? quantize() : undefined;
    let scales = held?.scale;
    const values = () => {
      const quantized = held ?? quantize();
      scales = quantized.scale;
      return quantized.values;
    };
    const stored = (type: typeof weight | typeof scale, load: () => TypedArray): Storage =>
      held ? { kind: "memory", ...type, data: load() } : { kind: "lazy", ...type, load };
    this.#weight = new Variable(name || "weight", weight, stored(weight, values), { frozen: true });
    this.#scale = new Variable(
      `${name || "weight"}.scale`,
      scale,
      stored(scale, () => {
        if (!scales) values();
        return scales!;
      }),
      { frozen: true },
    );
  }

  forward(x: Tensor): Tensor {
    const [weight, scale] = [read(this.#weight), read(this.#scale)];
    const y = this.dtype === "int8" ? int8Linear(x, weight, scale) : blockLinear(x, weight, scale, this.dtype);
    return this.bias ? add(y, this.bias.value) : y;
  }

  denseWeight(values: (variable: Variable) => TypedArray): Float32Array {
    const quantized = { values: values(this.#weight), scale: values(this.#scale) as Float32Array };
    return dequantize(quantized, this.dtype, this.inFeatures, this.outFeatures);
  }
}

const isHeld = (storage: Storage): boolean => storage.kind === "memory" || (storage.kind === "converted" && isHeld(storage.of));

type RowReader = (storage: Storage, stream: FloatStream, width: number, take: (row: Float32Array) => void) => void;

/** The rows of [out, in], put together from the parts. A row counts until the next one. */
export const streamRows: RowReader = (storage, stream, width, take) => {
  const row = new Float32Array(width);
  let filled = 0;
  stream(storage, (part) => {
    for (let from = 0; from < part.length; ) {
      const count = Math.min(width - filled, part.length - from);
      row.set(part.subarray(from, from + count), filled);
      from += count;
      filled = (filled + count) % width;
      if (filled === 0) take(row);
    }
  });
};

/** The rows of [out, in] of a weight that lies as [in, out], which is whole in memory for that time. */
const columnsOf: RowReader = (storage, stream, width, take) => {
  const weight = new Float32Array(elementCount(storage.shape));
  let done = 0;
  stream(storage, (part) => {
    weight.set(part, done);
    done += part.length;
  });
  const outFeatures = weight.length / width;
  const row = new Float32Array(width);
  for (let o = 0; o < outFeatures; o++) {
    for (let i = 0; i < width; i++) row[i] = weight[i * outFeatures + o]!;
    take(row);
  }
};
