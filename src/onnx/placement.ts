import { constantOp, type Graph, inputOp, type Node, type Tensor, variableOp } from "../graph/index.ts";
import { type Branch, captures, whenOp } from "../ops/index.ts";

const branchesOf = (n: Node): Branch[] => (n.op === whenOp ? [n.attrs.open as Branch, n.attrs.closed as Branch] : []);

/**
 * Laziness for run-time gates: a node of the outer graph whose every reader sits in one branch of one gate (or was itself moved there) belongs
 * into that branch, where it costs nothing while the branch is not taken. Returns the branch graph of each node to move.
 */
export function placeInBranches(graph: Graph, live: ReadonlySet<Node>, results: readonly Tensor[]): Map<Node, Graph> {
  const placement = new Map<Node, Graph>();
  const gates = graph.nodes.filter((n) => n.op === whenOp && live.has(n));
  if (gates.length === 0) return placement;

  // For each outer node, the graphs that read it: a branch's graph, or the outer graph itself.
  const readers = new Map<Node, Set<Graph>>();
  const reads = (t: Tensor, where: Graph) => {
    const set = readers.get(t.node) ?? new Set();
    readers.set(t.node, set.add(where));
  };
  for (const t of results) reads(t, graph);
  const visible = graph.nodes.filter((n) => live.has(n)).sort((a, b) => b.id - a.id);
  for (const n of visible) {
    const where = readers.get(n);
    const [only] = where ?? [];
    const isLeaf = n.op === inputOp || n.op === constantOp || n.op === variableOp;
    // Gates stay where they are: a gate within a gate is written by hand or not at all.
    const target = where?.size === 1 && only !== graph && !isLeaf && n.op !== whenOp ? only! : graph;
    if (target !== graph) placement.set(n, target);
    if (n.op === whenOp) {
      reads(n.inputs.gate!, graph);
      for (const b of branchesOf(n)) for (const t of captures(b)) reads(t, b.graph);
    } else {
      for (const t of Object.values(n.inputs)) if (t) reads(t, target);
    }
  }
  return placement;
}
