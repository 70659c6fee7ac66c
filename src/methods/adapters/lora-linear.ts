import type { Tensor } from "../../graph/index.ts";
import { dropout, type Initializer, Linear, type LinearLayer, Module, type Parameter, zeros } from "../../nn/index.ts";
import { add, matmul } from "../../ops/index.ts";

/**
 * A linear layer with a low-rank update: y = base(x) + s·(x·Aᵀ)·Bᵀ. The base's weight and bias keep their names, so the base checkpoint still
 * loads; `lora_A.weight` [rank, in] and `lora_B.weight` [out, rank] are named as PEFT names them.
 */
export class LoraLinear extends Module {
  readonly base: LinearLayer;
  readonly lora_A: Linear;
  readonly lora_B: Linear;
  readonly rank: number;
  readonly scaling: number;
  readonly dropout: number;

  constructor(base: LinearLayer, options: { rank: number; scaling: number; dropout: number; initA: Initializer }) {
    super();
    this.base = base;
    this.rank = options.rank;
    this.scaling = options.scaling;
    this.dropout = options.dropout;
    this.lora_A = new Linear(base.inFeatures, options.rank, { init: options.initA });
    // Zero, so that the adapted model starts as the base model.
    this.lora_B = new Linear(options.rank, base.outFeatures, { init: zeros });
  }

  forward(x: Tensor): Tensor {
    const low = this.lora_A.forward(dropout(x, this.dropout));
    return add(this.base.forward(x), matmul(low, this.lora_B.weight.value, { transposeB: true, alpha: this.scaling }));
  }

  /** The base's children stand among the layer's own: `q_proj.weight`, not `q_proj.base.weight`. */
  override *children(): Generator<[name: string, child: Module | Parameter]> {
    yield* this.base.children();
    for (const entry of super.children()) if (entry[1] !== this.base) yield entry;
  }
}
