import { type Node, reachable, type Tensor, type Traced } from "../graph/index.ts";
import { type Branch, chunksOp, whenOp } from "../ops/index.ts";

/**
 * The nodes of a program in the order in which ONNX Runtime runs them, as `onnx/order.ts` has it: from the nodes that no other one reads, last first, each after its
 * operands, of which those traced first come first. Nodes within a gate's open branch and those of one chunk stand before the gate and the chunks.
 */
export function executionOrder({ graph, outputs }: Traced): {
  order: Node[];
  /** What a tensor is another name of. */
  alias: Map<Tensor, Tensor>;
} {
  const results = [...Object.values(outputs), ...graph.updates.values()];
  const live = [...reachable(results)].sort((a, b) => a.id - b.id);
  const alias = new Map<Tensor, Tensor>();
  const done = new Set<Node>();
  const order: Node[] = [];
  const visit = (from: Node): void => {
    // An explicit stack: deep models would overflow the call stack.
    const stack: { node: Node; entered: boolean }[] = [{ node: from, entered: false }];
    while (stack.length > 0) {
      const { node, entered } = stack.pop()!;
      if (entered) {
        inside(node);
        order.push(node);
        continue;
      }
      if (done.has(node)) continue;
      done.add(node);
      stack.push({ node, entered: true });
      const operands = Object.values(node.inputs).flatMap((t) => (t && !done.has(t.node) ? [t.node] : []));
      // The one that is taken off first is the one traced first.
      for (const o of operands.sort((a, b) => b.id - a.id)) stack.push({ node: o, entered: false });
    }
  };
  const inside = (node: Node): void => {
    const body = bodyOf(node);
    if (!body) return;
    for (const n of [...reachable(body.results)].filter(({ graph }) => graph === body.graph).sort((a, b) => a.id - b.id)) {
      if (done.has(n)) continue;
      done.add(n);
      inside(n);
      order.push(n);
    }
    if (node.op === whenOp) for (const [i, t] of node.outputs.entries()) alias.set(t, body.results[i]!);
  };
  const read = new Set(live.flatMap((n) => Object.values(n.inputs).flatMap((t) => t?.node ?? [])));
  for (const n of live.filter((n) => !read.has(n)).reverse()) visit(n);
  return { order, alias };
}

function bodyOf({ op, attrs }: Node): Branch | undefined {
  if (op === whenOp) return attrs.open as Branch;
  return op === chunksOp ? (attrs.body as Branch) : undefined;
}
