import { EspalierError } from "../../graph/index.ts";
import type { Module } from "../../nn/index.ts";
import type { Device } from "../../runtime/index.ts";
import { forgetWeights } from "../../train/method.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { Graft } from "./graft.ts";
import { VirtualTokenDecoder } from "./virtual-tokens.ts";

/** A merged model's way back. */
export interface Merged {
  /** Modules whose weight changed. */
  readonly modules: readonly string[];
  /** Puts the adapters back, with the base weights bit for bit as they were. */
  unmerge(): void;
}

/**
 * Folds every adapter into the weight on which it stands (in float64, rounded once to float32) and puts plain layers in the adapters' place: the
 * merged model costs what the base model costs. Updates smaller than bfloat16 resolves are lost when the result is saved in bfloat16.
 *
 * @throws EspalierError `not-mergeable` where the model has virtual tokens
 */
export function mergeAdapters(model: Module, device: Device): Merged {
  const modules = [...model.namedModules()];
  if (modules.some(([, module]) => module instanceof VirtualTokenDecoder))
    throw new EspalierError(
      "not-mergeable",
      "The model's adapter consists of virtual tokens (prompt, prefix or P-tuning). No weight can take them in: use the adapter beside its base model.",
    );
  const adapters = modules.filter((entry): entry is [string, AdapterLayer] => entry[1] instanceof AdapterLayer);
  const graft = new Graft(model);
  try {
    for (const [path, adapter] of adapters) graft.replace(path, adapter.merged(device));
  } catch (error) {
    graft.undo();
    throw error;
  }
  // The same methods may now put new adapters on.
  const remember = ["lora", "ia3"].map((method) => forgetWeights(model, method));
  return {
    modules: adapters.map(([path]) => path),
    unmerge() {
      graft.undo();
      for (const put of remember) put();
    },
  };
}
