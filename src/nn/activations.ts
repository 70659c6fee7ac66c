import { EspalierError, nearestNames, type Tensor } from "../graph/index.ts";
import { gatedSilu, gelu, geluTanh, mul, relu, sigmoid, silu, tanh } from "../ops/index.ts";

export type Activation = (x: Tensor) => Tensor;

/** x·σ(1.702·x), the approximation that CLIP was trained with (Hendrycks and Gimpel, "Gaussian Error Linear Units"). */
export const quickGelu: Activation = (x) => mul(x, sigmoid(mul(x, 1.702)));

/** Activations by the names that `config.json` files use. */
export const activations = {
  gelu,
  gelu_python: gelu,
  gelu_new: geluTanh,
  gelu_fast: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  quick_gelu: quickGelu,
  relu,
  silu,
  swish: silu,
  tanh,
} as const satisfies Readonly<Record<string, Activation>>;

export type ActivationName = keyof typeof activations;

export const activationNames = Object.keys(activations) as [ActivationName, ...ActivationName[]];

/** act(gate) · up, as gated feed-forward layers have it (Shazeer, "GLU Variants Improve Transformer"). */
export const gated = (name: ActivationName, gate: Tensor, up: Tensor): Tensor =>
  activations[name] === silu ? gatedSilu(gate, up) : mul(activations[name](gate), up);

/** @throws EspalierError `bad-config` for a name that none of the families uses */
export function activation(name: string): Activation {
  const known = (activations as Readonly<Record<string, Activation>>)[name];
  if (known) return known;
  throw new EspalierError("bad-config", `There is no activation "${name}". Nearest: ${nearestNames(name, activationNames).join(", ")}.`);
}
