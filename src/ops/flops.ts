import { reachable, readBy, type Traced } from "../graph/index.ts";
import { linearCrossEntropyFlops } from "./linear-cross-entropy.ts";
import { matmulFlops } from "./matmul.ts";

/** The floating-point operations of all matrix products that one run of the program computes: two per multiply–add. Elementwise work is not counted. */
export function countMatmulFlops({ graph, outputs }: Traced): number {
  const results = [...Object.values(outputs), ...graph.updates.values()];
  const nodes = reachable(results);
  const read = readBy(nodes, results);
  let total = 0;
  for (const node of nodes) total += matmulFlops(node) ?? linearCrossEntropyFlops(node, read) ?? 0;
  return total;
}
