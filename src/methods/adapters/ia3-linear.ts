import type { Tensor } from "../../graph/index.ts";
import { type LinearLayer, ones, Parameter } from "../../nn/index.ts";
import { mul, reshape } from "../../ops/index.ts";
import type { Device } from "../../runtime/index.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { plainLinear } from "./plain-linear.ts";

/** A linear layer whose outputs, or in the feed-forward whose inputs, are scaled one by one: `ia3_l` [out, 1] or [1, in]. */
export class Ia3Linear extends AdapterLayer {
  readonly base: LinearLayer;
  readonly ia3_l: Parameter;
  readonly scales: "inputs" | "outputs";

  constructor(base: LinearLayer, scales: "inputs" | "outputs") {
    super();
    this.base = base;
    this.scales = scales;
    const shape = scales === "inputs" ? [1, base.inFeatures] : [base.outFeatures, 1];
    this.ia3_l = new Parameter(shape, () => ones(shape));
  }

  override get standsOn(): LinearLayer {
    return this.base;
  }

  forward(x: Tensor): Tensor {
    const scale = reshape(this.ia3_l.value, [-1]);
    return this.scales === "inputs" ? this.base.forward(mul(x, scale)) : mul(this.base.forward(x), scale);
  }

  merged(device: Device) {
    const { base, scales } = this;
    const { inFeatures } = base;
    const scale = device.read(this.ia3_l).data as Float32Array;
    const weight = base.denseWeight((variable) => device.read(variable).data);
    for (let i = 0; i < weight.length; i++) weight[i]! *= scale[scales === "inputs" ? i % inFeatures : Math.floor(i / inFeatures)]!;
    const bias = base.bias && (device.read(base.bias).data as Float32Array);
    return plainLinear(base, weight, scales === "outputs" ? bias?.map((value, i) => value * scale[i]!) : bias);
  }
}
