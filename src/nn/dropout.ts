import { currentGraph, type Tensor } from "../graph/index.ts";
import { add, cast, dropout as dropoutOp, mul } from "../ops/index.ts";
import { isTraining } from "./mode.ts";

/** The inputs, fed at each run, that random numbers are a function of. */
export const randomInputs = { seed: "random.seed", step: "random.step" } as const;

function scalarInput(name: string): Tensor {
  let graph = currentGraph();
  while (graph.parent) graph = graph.parent;
  return graph.inputs.get(name) ?? graph.input(name, "int32", []);
}

let part: Tensor | undefined;

/** Traces `fn` with random numbers that depend on `number`, int64 [], too: parts of a batch that share their nodes draw different ones. */
export function withDrawsOf<T>(number: Tensor, fn: () => T): T {
  const outer = part;
  part = number;
  try {
    return fn();
  } finally {
    part = outer;
  }
}

/** Zeroes elements with probability `p` while training (see the operator); the identity elsewhere. The module path tells sites apart. */
export function dropout(x: Tensor, p: number): Tensor {
  if (p === 0 || !isTraining()) return x;
  const seed = scalarInput(randomInputs.seed);
  // An odd factor: no two parts have the same seed.
  const ofPart = part ? add(seed, mul(cast(part, "int32"), 0x9e3779b1 | 0)) : seed;
  return dropoutOp(x, p, { seed: ofPart, step: scalarInput(randomInputs.step) });
}
