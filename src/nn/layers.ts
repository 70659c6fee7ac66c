import type { Tensor, TypedArray, Variable } from "../graph/index.ts";
import { add, embedding, layerNorm, mul, rmsNorm, weightProduct } from "../ops/index.ts";
import { type Initializer, ones, zeros } from "./initializers.ts";
import { Module, Parameter } from "./module.ts";

/** How a weight matrix lies in memory: PyTorch's Linear has a row per output, GPT-2's Conv1D and ONNX's MatMul one per input. */
export type LinearLayout = "out-in" | "in-out";

export interface LinearOptions {
  init: Initializer;
  bias?: boolean;
  /** Default "out-in". */
  layout?: LinearLayout;
}

/** y = x·Wᵀ + b, however the weight is stored: what an adapter may stand on. x [..., in] → [..., out]. */
export abstract class LinearLayer extends Module {
  abstract readonly bias: Parameter | undefined;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** How checkpoints of the model have the weight. */
  readonly layout: LinearLayout;

  constructor(inFeatures: number, outFeatures: number, layout: LinearLayout = "out-in") {
    super();
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.layout = layout;
  }

  abstract override forward(x: Tensor): Tensor;

  /** The weight as float32 values [out, in], row-major; `values` gives those of a variable. */
  abstract denseWeight(values: (variable: Variable) => TypedArray): Float32Array;

  /** The shape of the weight in checkpoints. */
  get storedShape(): [number, number] {
    return this.layout === "out-in" ? [this.outFeatures, this.inFeatures] : [this.inFeatures, this.outFeatures];
  }

  /** A weight [out, in] as checkpoints have it. */
  storedWeight(weight: Float32Array): Float32Array {
    return this.layout === "out-in" ? weight : transposed(weight, this.inFeatures);
  }
}

/** [rows, columns] → [columns, rows], row-major. */
function transposed(values: Float32Array, columns: number): Float32Array {
  const rows = values.length / columns;
  return Float32Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!);
}

/** The usual {@link LinearLayer}. `weight` [out, in], or [in, out] where the layout says so. */
export class Linear extends LinearLayer {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;

  constructor(inFeatures: number, outFeatures: number, options: LinearOptions) {
    super(inFeatures, outFeatures, options.layout);
    const shape = this.storedShape;
    this.weight = new Parameter(shape, () => options.init(shape));
    this.bias = options.bias ? new Parameter([outFeatures], () => zeros([outFeatures])) : undefined;
  }

  forward(x: Tensor): Tensor {
    const y = weightProduct(x, this.weight.value, this.layout);
    return this.bias ? add(y, this.bias.value) : y;
  }

  denseWeight(values: (variable: Variable) => TypedArray): Float32Array {
    const weight = values(this.weight) as Float32Array;
    return this.layout === "out-in" ? weight : transposed(weight, this.outFeatures);
  }
}

/** What an {@link Embedding} is, and what may stand in its place. */
export type EmbeddingLayer = Module & {
  /** [vocabulary, width]. */
  readonly weight: Parameter;
  /** The rows as a head that shares them reads them, [vocabulary, width]. */
  readonly table: Tensor;
  /** Factor on the rows that are looked up. */
  readonly scale: number;
  forward(ids: Tensor): Tensor;
};

/** Rows of a table, times `scale`. `weight` [vocabulary, width]; int64 ids [...] → [..., width]. */
export class Embedding extends Module {
  readonly weight: Parameter;
  readonly scale: number;

  constructor(vocabulary: number, width: number, options: { init: Initializer; scale?: number }) {
    super();
    this.weight = new Parameter([vocabulary, width], () => options.init([vocabulary, width]));
    this.scale = options.scale ?? 1;
  }

  get table(): Tensor {
    return this.weight.value;
  }

  forward(ids: Tensor): Tensor {
    return mul(embedding(ids, this.weight.value), this.scale);
  }
}

/** What takes the scale out of activations: {@link RMSNorm} or {@link LayerNorm}. */
export type Norm = RMSNorm | LayerNorm;

/** x / rms(x) · weight over the last axis. `weight` [width]. With `unitOffset`, as in Gemma, the factor is 1 + weight. */
export class RMSNorm extends Module {
  readonly weight: Parameter;
  readonly epsilon: number;
  readonly unitOffset: boolean;

  constructor(width: number, epsilon: number, options: { unitOffset?: boolean } = {}) {
    super();
    this.unitOffset = options.unitOffset ?? false;
    this.weight = new Parameter([width], () => (this.unitOffset ? zeros : ones)([width]));
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.unitOffset ? add(this.weight.value, 1) : this.weight.value, this.epsilon);
  }
}

/** (x − mean) / deviation · weight + bias over the last axis (Ba et al., "Layer Normalization"). `weight` and `bias` [width]. */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  readonly epsilon: number;

  constructor(width: number, epsilon: number, options: { bias?: boolean } = {}) {
    super();
    this.weight = new Parameter([width], () => ones([width]));
    this.bias = (options.bias ?? true) ? new Parameter([width], () => zeros([width])) : undefined;
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight.value, this.bias?.value, this.epsilon);
  }
}
