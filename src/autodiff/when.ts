import { currentGraph, isFloat, type Node, type Tensor } from "../graph/index.ts";
import { type Branch, branch, inline, whenOf, zerosLike } from "../ops/index.ts";
import { vjp } from "./grad.ts";

/**
 * The gradient of a run-time gate: a gate of its own, whose branches recompute the values of the taken branch and differentiate them.
 * A captured tensor that a branch does not read gets zeros from it.
 */
export function whenGradient(node: Node, dys: readonly (Tensor | undefined)[]): Record<string, Tensor | undefined> {
  const { open, closed } = node.attrs as unknown as { open: Branch; closed: Branch };
  const names = Object.keys(node.inputs).filter((name) => name !== "gate" && isFloat(node.inputs[name]!.dtype));
  const operands = names.map((name) => node.inputs[name]!);
  const backward = (forward: Branch): Branch =>
    branch(() => {
      const values = inline(forward.graph);
      const gradients = vjp(
        forward.results.map((t) => values.get(t) ?? t),
        dys,
        operands,
        // One captured value may depend on another: the outer graph adds that part, so it must not be counted here.
        currentGraph(),
      );
      return gradients.map((g, i) => g ?? zerosLike(operands[i]!));
    });
  const gradients = whenOf(node.inputs.gate!, backward(open), backward(closed));
  return Object.fromEntries(names.map((name, i) => [name, gradients[i]]));
}
