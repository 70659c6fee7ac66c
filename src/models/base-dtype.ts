import { streamFloats } from "../checkpoints/index.ts";
import { Linear, type Module, type QuantizedDType, QuantizedLinear } from "../nn/index.ts";

/** How the weights of a frozen base model may be kept. */
export const baseDtypes = ["f32", "bf16", "f16", "int8", "int4", "nf4"] as const;
export type BaseDtype = (typeof baseDtypes)[number];

/**
 * Says how the weights of a model that will be frozen are kept. Call it before adapters are put on.
 *
 * - `f32`: float32, into which 16-bit weights are widened once, in a file that is mapped. The default.
 * - `bf16`, `f16`: while they are frozen, matrices and tables are held in that type, mapped from the checkpoint's own file where it has it, and
 *   widened in every run: half the memory, for the time of a pass over the weights. Wider ones are rounded. Norms and biases stay float32.
 * - `int8`, `int4`, `nf4`: the Linears are replaced by {@link QuantizedLinear}s, which keep no float copy. Embeddings, the head (tied or not),
 *   norms and biases stay as they are: they are small, or their rounding costs the most.
 *
 * @returns the paths of the layers that were quantised
 * @throws EspalierError `block-size` where the inputs of a layer do not divide into blocks, `not-finite`
 */
export function setBaseDtype(model: Module, dtype: BaseDtype): string[] {
  if (dtype === "int8" || dtype === "int4" || dtype === "nf4") return quantizeLinears(model, dtype);
  const constantDtype = ({ f32: undefined, bf16: "bfloat16", f16: "float16" } as const)[dtype];
  for (const parameter of model.parameters()) if (parameter.shape.length >= 2) parameter.constantDtype = constantDtype;
  return [];
}

function quantizeLinears(model: Module, dtype: QuantizedDType): string[] {
  const { head } = model as { head?: unknown };
  const found = [...model.namedModules()].filter((entry): entry is [string, Linear] => entry[1] instanceof Linear && entry[1] !== head);
  for (const [path, linear] of found) model.replace(path, new QuantizedLinear(linear, dtype, streamFloats));
  model.assignNames();
  return found.map(([path]) => path);
}
