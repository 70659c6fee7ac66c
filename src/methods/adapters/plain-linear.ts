import { floats, Linear, type LinearLayer, zeros } from "../../nn/index.ts";

/** A frozen Linear in the place of `base`, its weight in the same layout, as checkpoints of the model have it. `weight` [out, in]. */
export function plainLinear(base: LinearLayer, weight: Float32Array, bias: Float32Array | undefined): Linear {
  const { inFeatures, outFeatures, layout } = base;
  const plain = new Linear(inFeatures, outFeatures, { init: zeros, bias: bias !== undefined, layout });
  plain.weight.storage = floats(plain.weight.shape, base.storedWeight(weight));
  if (plain.bias) plain.bias.storage = floats([outFeatures], bias!);
  return plain.freeze();
}
