import type { Tensor } from "../graph/index.ts";
import { type ActivationName, gated } from "./activations.ts";
import type { Initializer } from "./initializers.ts";
import { Linear } from "./layers.ts";
import { type Layer, Module } from "./module.ts";

/** down(act(gate(x)) · up(x)) (Shazeer, "GLU Variants Improve Transformer"), with the names of Llama and its relatives. */
export class GatedMLP extends Module {
  readonly gate_proj: Layer;
  readonly up_proj: Layer;
  readonly down_proj: Layer;
  readonly #activation: ActivationName;

  constructor(hidden: number, inner: number, options: { activation: ActivationName; init: Initializer; bias?: boolean }) {
    super();
    this.#activation = options.activation;
    this.gate_proj = new Linear(hidden, inner, options);
    this.up_proj = new Linear(hidden, inner, options);
    this.down_proj = new Linear(inner, hidden, options);
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(gated(this.#activation, this.gate_proj.forward(x), this.up_proj.forward(x)));
  }
}
