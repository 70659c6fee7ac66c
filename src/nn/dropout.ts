import { currentGraph, type Tensor } from "../graph/index.ts";
import { dropout as dropoutOp } from "../ops/index.ts";
import { isTraining } from "./mode.ts";

/** The inputs, fed at each run, that random numbers are a function of. */
export const randomInputs = { seed: "random.seed", step: "random.step" } as const;

function scalarInput(name: string): Tensor {
  let graph = currentGraph();
  while (graph.parent) graph = graph.parent;
  return graph.inputs.get(name) ?? graph.input(name, "int32", []);
}

/** Zeroes elements with probability `p` while training (see the operator); the identity elsewhere. The module path tells sites apart. */
export function dropout(x: Tensor, p: number): Tensor {
  if (p === 0 || !isTraining()) return x;
  return dropoutOp(x, p, { seed: scalarInput(randomInputs.seed), step: scalarInput(randomInputs.step) });
}
