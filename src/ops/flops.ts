import { type Node, reachable, readBy, type Tensor, type Traced } from "../graph/index.ts";
import { chunkWork } from "./chunks.ts";
import { linearCrossEntropyFlops } from "./linear-cross-entropy.ts";
import { matmulFlops } from "./matmul.ts";

/** The floating-point operations of all matrix products that one run of the program computes: two per multiply–add. Elementwise work is not counted. */
export function countMatmulFlops({ graph, outputs }: Traced): number {
  const results = [...Object.values(outputs), ...graph.updates.values()];
  return flopsOf([...reachable(results)], results);
}

function flopsOf(nodes: readonly Node[], results: readonly Tensor[]): number {
  const read = readBy(nodes, results);
  let total = 0;
  for (const node of nodes) {
    const chunks = chunkWork(node, read);
    total += chunks
      ? chunks.times * flopsOf(chunks.nodes, chunks.results)
      : (matmulFlops(node) ?? linearCrossEntropyFlops(node, read) ?? 0);
  }
  return total;
}
