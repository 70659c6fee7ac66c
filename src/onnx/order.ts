import type { NodeProto } from "./model.ts";

/**
 * Nodes in the order in which to write them, so that ONNX Runtime runs them about as they were traced. It walks from the outputs backwards: of the nodes
 * that no other one reads it begins with the one that stands last, of a node's operands it first computes those that stand later. Written as traced, a
 * graph would run its newest operand first: what a gradient needs of the forward pass alone would be there for the whole of the backward pass, and the
 * gradients of all weights would wait, with everything that they read, for those of the first layer.
 *
 * So nodes stand backwards. Nodes that nobody reads keep their order behind them: updates are traced from the first layer to the last, and the last one's
 * gradients are there first. The first `early` nodes stay where they are, to run just before their readers.
 */
export function inWritingOrder(nodes: readonly NodeProto[], early: number): NodeProto[] {
  const read = new Set<string>();
  const visit = (list: readonly NodeProto[]) => {
    for (const { input, attribute } of list) {
      for (const name of input) read.add(name);
      for (const a of attribute) if ("graph" in a) visit(a.graph.node);
    }
  };
  visit(nodes);
  const [inner, last]: [NodeProto[], NodeProto[]] = [[], []];
  for (const n of nodes.slice(early)) (n.output.some((name) => read.has(name)) ? inner : last).push(n);
  return [...nodes.slice(0, early), ...inner.reverse(), ...last];
}
