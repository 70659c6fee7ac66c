import { floats, Linear, type LinearLayer, zeros } from "../../nn/index.ts";

/** A frozen Linear in the place of `base`, its weight in the same layout, as checkpoints of the model have it. `weight` [out, in]. */
export function plainLinear(base: LinearLayer, weight: Float32Array, bias: Float32Array | undefined): Linear {
  const { inFeatures, outFeatures } = base;
  const layout = base instanceof Linear ? base.layout : "out-in";
  const plain = new Linear(inFeatures, outFeatures, { init: zeros, bias: bias !== undefined, layout });
  const stored =
    layout === "out-in"
      ? weight
      : Float32Array.from(weight, (_, i) => weight[(i % outFeatures) * inFeatures + Math.floor(i / outFeatures)]!);
  plain.weight.storage = floats(plain.weight.shape, stored);
  if (plain.bias) plain.bias.storage = floats([outFeatures], bias!);
  return plain.freeze();
}
