import type { Tensor } from "../graph/index.ts";
import { add, embedding, linear, rmsNorm } from "../ops/index.ts";
import { type Initializer, ones, zeros } from "./initializers.ts";
import { Module, Parameter } from "./module.ts";

/** y = x·Wᵀ + b. `weight` [out, in]; x [..., in] → [..., out]. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  readonly inFeatures: number;
  readonly outFeatures: number;

  constructor(inFeatures: number, outFeatures: number, options: { init: Initializer; bias?: boolean }) {
    super();
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.weight = new Parameter([outFeatures, inFeatures], () => options.init([outFeatures, inFeatures]));
    this.bias = options.bias ? new Parameter([outFeatures], () => zeros([outFeatures])) : undefined;
  }

  forward(x: Tensor): Tensor {
    const y = linear(x, this.weight.value);
    return this.bias ? add(y, this.bias.value) : y;
  }
}

/** Rows of a table. `weight` [vocabulary, width]; int64 ids [...] → [..., width]. */
export class Embedding extends Module {
  readonly weight: Parameter;

  constructor(vocabulary: number, width: number, options: { init: Initializer }) {
    super();
    this.weight = new Parameter([vocabulary, width], () => options.init([vocabulary, width]));
  }

  forward(ids: Tensor): Tensor {
    return embedding(ids, this.weight.value);
  }
}

/** x / rms(x) · weight over the last axis. `weight` [width]. */
export class RMSNorm extends Module {
  readonly weight: Parameter;
  readonly epsilon: number;

  constructor(width: number, epsilon: number) {
    super();
    this.weight = new Parameter([width], () => ones([width]));
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight.value, this.epsilon);
  }
}
