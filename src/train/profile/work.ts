import { backward } from "../../autodiff/index.ts";
import type { OperatorRun } from "../../runtime/index.ts";

export const phases = ["forward", "backward", "optimizer"] as const;
export type Phase = (typeof phases)[number];

/** One run of an operator, and whose work it is. */
export interface Work extends OperatorRun {
  readonly phase: Phase;
  /** The module's path; of what belongs to none, what it is for, as `loss`. */
  readonly module: string;
}

const optimizer = "optimizer";

/** Reads a node's name: a path, the mark of the backward pass, the operator of ours, that of ONNX where it is another, and a number. */
export function workOf(run: OperatorRun): Work {
  const parts = run.name.split("/");
  if (parts[0] === optimizer) {
    // Of a parameter: its module's part of the optimizer's work. Small ones are updated together, `first.weight+23`.
    const parameter = parts.length > 2 ? parts[1]! : "";
    const ofModule = parameter.includes(".") && !/\+\d+$/.test(parameter);
    return { ...run, phase: "optimizer", module: ofModule ? parameter.slice(0, parameter.lastIndexOf(".")) : optimizer };
  }
  const at = parts.indexOf(backward);
  const path = at < 0 ? (parts.length > 1 ? parts[0]! : "") : parts.slice(0, at).join("/");
  return { ...run, phase: at < 0 ? "forward" : "backward", module: path || "(no module)" };
}

/** Paths of the layers of a stack, as one: `model.layers.*.mlp`. */
export const acrossLayers = (module: string): string => module.replace(/\.\d+(?=\.|$)/g, ".*");

const products = new Set(["MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"]);

/** Floating-point (or integer) operations of a matrix product or convolution, two per multiply–add; 0 for other operators. */
export function operationsOf({ operator, inputs, outputs }: OperatorRun): number {
  const [a, b] = inputs;
  const out = outputs[0];
  if (!a || !b || !out) return 0;
  const count = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1);
  // Whichever of a's axes is transposed, one of them is the result's rows and the other the inner one.
  if (products.has(operator) && a.length >= 2 && out.length >= 2) return (2 * count(out) * count(a.slice(-2))) / out.at(-2)!;
  if (operator.endsWith("Conv")) return 2 * count(out) * count(b.slice(1));
  return 0;
}
