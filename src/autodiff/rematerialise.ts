import { atPath, constantOp, currentGraph, inputOp, isFloat, type Node, type Tensor, variableOp } from "../graph/index.ts";
import { after, copyNode } from "../ops/index.ts";

/** Nodes of one graph, in order, whose values are computed again in the backward pass. */
type Region = readonly Node[];

const regions = new WeakMap<Node, Region>();
let open = false;

const isLeaf = ({ op }: Node): boolean => op === inputOp || op === constantOp || op === variableOp;

/**
 * Traces `fn` so that the backward pass computes its values again rather than keep them: of what is traced inside, only what later nodes of the forward
 * pass read lives on (Chen et al., "Training Deep Nets with Sublinear Memory Cost"). A region within a region is part of the outer one.
 *
 * The values are the same, random numbers included. Integers and bools from outside (positions, masks), and what follows from weights alone, are not
 * computed again.
 */
export function rematerialise<T>(fn: () => T): T {
  if (open) return fn();
  const { nodes } = currentGraph();
  const from = nodes.length;
  open = true;
  try {
    return fn();
  } finally {
    open = false;
    const region = nodes.slice(from).filter((n) => !isLeaf(n));
    for (const n of region) regions.set(n, region);
  }
}

/** The recomputations of one backward pass. */
export class Recomputation {
  readonly #copies = new Map<Region, ReadonlyMap<Node, Node>>();

  /**
   * The node whose values the gradient of `node` is to read: itself, or its copy where it lies in a region. `dy` is a gradient for one of its outputs:
   * the first one to reach a region is what the region's recomputation waits for.
   */
  nodeFor(node: Node, dy: Tensor): Node {
    const region = regions.get(node);
    if (!region) return node;
    let copies = this.#copies.get(region);
    if (!copies) {
      copies = copiesOf(region, dy);
      this.#copies.set(region, copies);
    }
    return copies.get(node) ?? node;
  }
}

/**
 * Copies of the nodes that depend on floats, or on scalars, from outside the region. Those values are read after `dy`: without that, ONNX Runtime would
 * find that a copy computes what its original did, and keep the one for both. Copies that no gradient reads cost nothing: they are never encoded.
 */
function copiesOf(region: Region, dy: Tensor): ReadonlyMap<Node, Node> {
  const inside = new Set(region);
  const replace = new Map<Tensor, Tensor>();
  const copies = new Map<Node, Node>();
  for (const n of region) {
    const operands = Object.values(n.inputs).filter((t) => t !== undefined);
    for (const t of operands) if (!inside.has(t.node) && isAwaited(t) && !replace.has(t)) replace.set(t, after(t, dy));
    if (operands.some((t) => replace.has(t)))
      copies.set(
        n,
        atPath(n.path, () => copyNode(n, replace)),
      );
  }
  return copies;
}

const isAwaited = ({ node, dtype, rank }: Tensor): boolean =>
  node.op !== variableOp && node.op !== constantOp && (isFloat(dtype) || (rank === 0 && dtype !== "bool"));
