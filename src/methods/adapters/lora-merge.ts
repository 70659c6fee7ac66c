import { floats, Linear, type Module, zeros } from "../../nn/index.ts";
import type { Device } from "../../runtime/index.ts";
import { forgetWeights } from "../../train/method.ts";
import { LoraLinear } from "./lora-linear.ts";

/** A merged model's way back. */
export interface Merged {
  /** Modules whose weight changed. */
  readonly modules: readonly string[];
  /** Puts the adapters back, with the base weights bit for bit as they were. */
  unmerge(): void;
}

/**
 * Adds every LoRA update to its weight (W + s·B·A, in float64, rounded once to float32) and puts plain Linears in the adapters' place:
 * the merged model costs what the base model costs. Updates smaller than bfloat16 resolves are lost when the result is saved in bfloat16.
 */
export function mergeLora(model: Module, device: Device): Merged {
  const adapters = [...model.namedModules()].filter((entry): entry is [string, LoraLinear] => entry[1] instanceof LoraLinear);
  for (const [path, adapter] of adapters) {
    const { inFeatures, outFeatures, bias } = adapter.base;
    const merged = new Linear(inFeatures, outFeatures, { init: zeros, bias: bias !== undefined });
    merged.weight.storage = floats([outFeatures, inFeatures], mergedWeight(adapter, device));
    if (merged.bias) merged.bias.storage = { kind: "memory", ...device.read(bias!) };
    merged.freeze();
    model.replace(path, merged);
  }
  model.assignNames();
  // The same method may now put new adapters on.
  const remember = forgetWeights(model, "lora");
  return {
    modules: adapters.map(([path]) => path),
    unmerge() {
      for (const [path, adapter] of adapters) model.replace(path, adapter);
      model.assignNames();
      remember();
    },
  };
}

/** [out, in]. */
function mergedWeight({ base, lora_A, lora_B, rank, scaling }: LoraLinear, device: Device): Float32Array {
  const { inFeatures, outFeatures } = base;
  const merged = base.denseWeight((variable) => device.read(variable).data);
  const a = device.read(lora_A.weight).data as Float32Array;
  const b = device.read(lora_B.weight).data as Float32Array;
  const row = new Float64Array(inFeatures);
  for (let o = 0; o < outFeatures; o++) {
    row.fill(0);
    for (let r = 0; r < rank; r++) {
      const factor = scaling * b[o * rank + r]!;
      for (let i = 0; i < inFeatures; i++) row[i]! += factor * a[r * inFeatures + i]!;
    }
    for (let i = 0; i < inFeatures; i++) merged[o * inFeatures + i]! += row[i]!;
  }
  return merged;
}
