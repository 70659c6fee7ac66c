import { EspalierError, type Shape, symbol, type Variable } from "../../graph/index.ts";
import { type Module, type Parameter, zeros } from "../../nn/index.ts";
import { type HostTensor, hostTensor } from "../../runtime/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { LoraLinear } from "./lora-linear.ts";

/** An adapter as inputs of a graph. */
export interface AdapterInputs {
  /** For `exportOnnx`: the shape of the input that a variable becomes; undefined for the base model's. */
  inputOf(variable: Variable): Shape | undefined;
  /** The adapter's own values, by the inputs' names. */
  tensors: ReadonlyMap<string, HostTensor>;
}

/**
 * Readies an adapted model for a graph that is fed its adapter: one graph then serves every adapter of the same method on the same modules. Inputs are named
 * as the parameters are (`model.layers.0.self_attn.q_proj.lora_A.weight`). A LoRA layer's scale goes into its B, and its rank is left open, so that adapters
 * may differ in both. The model computes what it computed before.
 *
 * @throws EspalierError `no-adapter` where nothing of the model is an adapter's
 */
export function adapterInputs(model: Module): AdapterInputs {
  const ranks = new Map<Parameter, Shape>();
  for (const [path, layer] of [...model.namedModules()]) {
    if (!(layer instanceof LoraLinear)) continue;
    const folded = withFoldedScale(layer);
    model.replace(path, folded);
    if (folded.lora_magnitude_vector) continue;
    const rank = symbol(`${path.replace(/\W/g, "_")}_rank`);
    ranks.set(folded.lora_A.weight, [rank, folded.base.inFeatures]);
    ranks.set(folded.lora_B.weight, [folded.base.outFeatures, rank]);
  }
  model.assignNames();
  const parameters = new Set<Variable>(model.trainableParameters());
  if (parameters.size === 0)
    throw new EspalierError(
      "no-adapter",
      "The model carries no adapter: nothing of it is trainable, so nothing can become an input. Load an adapter first.",
    );
  return {
    inputOf: (variable) => (parameters.has(variable) ? (ranks.get(variable as Parameter) ?? variable.shape) : undefined),
    tensors: new Map(Array.from(parameters, (p) => [p.name, hostTensor(p.dtype, p.shape, readStorage(p.storage, p.dtype))])),
  };
}

/** The same layer with a scale of one. */
function withFoldedScale(layer: LoraLinear): LoraLinear {
  const { base, rank, scaling, lora_A, lora_B, lora_magnitude_vector: magnitude } = layer;
  const options = { rank, scaling: 1, dropout: 0, initA: zeros, bias: lora_B.bias !== undefined, decomposed: magnitude !== undefined };
  const folded = new LoraLinear(base, options);
  const take = (to: Parameter, from: Parameter, factor: number) => {
    const values = readStorage(from.storage, "float32") as Float32Array;
    to.storage = factor === 1 ? from.storage : { kind: "memory", dtype: "float32", shape: from.shape, data: values.map((v) => v * factor) };
    to.frozen = from.frozen;
  };
  take(folded.lora_A.weight, lora_A.weight, 1);
  take(folded.lora_B.weight, lora_B.weight, scaling);
  if (folded.lora_B.bias) take(folded.lora_B.bias, lora_B.bias!, scaling);
  if (folded.lora_magnitude_vector) take(folded.lora_magnitude_vector, magnitude!, 1);
  return folded;
}
