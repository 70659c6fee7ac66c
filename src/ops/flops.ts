import { reachable, type Traced } from "../graph/index.ts";
import { matmulFlops } from "./matmul.ts";

/** The floating-point operations of all matrix products that one run of the program computes: two per multiply–add. Elementwise work is not counted. */
export function countMatmulFlops({ graph, outputs }: Traced): number {
  let total = 0;
  for (const node of reachable([...Object.values(outputs), ...graph.updates.values()])) total += matmulFlops(node) ?? 0;
  return total;
}
