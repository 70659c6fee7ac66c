import type { Tensor } from "../../graph/index.ts";
import { dropout, type Initializer, Linear, Module, type Parameter, zeros } from "../../nn/index.ts";
import { add, linear, matmul } from "../../ops/index.ts";

/**
 * A Linear with a low-rank update: y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ. Weight and bias keep their names, so the base checkpoint still loads;
 * `lora_A.weight` [rank, in] and `lora_B.weight` [out, rank] are named as PEFT names them.
 */
export class LoraLinear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  readonly lora_A: Linear;
  readonly lora_B: Linear;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly rank: number;
  readonly scaling: number;
  readonly dropout: number;

  constructor(base: Linear, options: { rank: number; scaling: number; dropout: number; initA: Initializer }) {
    super();
    this.weight = base.weight;
    this.bias = base.bias;
    this.inFeatures = base.inFeatures;
    this.outFeatures = base.outFeatures;
    this.rank = options.rank;
    this.scaling = options.scaling;
    this.dropout = options.dropout;
    this.lora_A = new Linear(base.inFeatures, options.rank, { init: options.initA });
    // Zero, so that the adapted model starts as the base model.
    this.lora_B = new Linear(options.rank, base.outFeatures, { init: zeros });
  }

  forward(x: Tensor): Tensor {
    const y = linear(x, this.weight.value);
    const low = this.lora_A.forward(dropout(x, this.dropout));
    const adapted = add(y, matmul(low, this.lora_B.weight.value, { transposeB: true, alpha: this.scaling }));
    return this.bias ? add(adapted, this.bias.value) : adapted;
  }
}
