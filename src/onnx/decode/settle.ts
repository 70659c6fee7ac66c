import type { OnnxGraph, OnnxNode, OnnxTensor } from "./model-file.ts";

/** Constants of at least this many elements are weights, wherever the exporter put them. */
const weightElements = 65;

/**
 * The graph without decisions that are already made, so that its weights are found where they are: branches whose condition is known stand in the place
 * of their If, and large Constant nodes become initialisers. Merged decoders keep all of their layers in two branches.
 *
 * @param condition the value of a bool, undefined where only the run can tell
 */
export function settle(graph: OnnxGraph, condition: (name: string) => boolean | undefined): OnnxGraph {
  const initializers = new Map(graph.initializers);
  const nodes = graph.nodes.flatMap((node) => settledNode(node, condition, initializers));
  return { ...graph, nodes, initializers };
}

function settledNode(node: OnnxNode, condition: (name: string) => boolean | undefined, initializers: Map<string, OnnxTensor>): OnnxNode[] {
  if (node.domain !== "") return [node];
  if (node.opType === "Constant") {
    const value = node.attributes.get("value");
    const [name] = node.outputs;
    if (value?.kind !== "tensor" || !name || value.value.shape.reduce((n, d) => n * d, 1) < weightElements) return [node];
    initializers.set(name, { ...value.value, name });
    return [];
  }
  const taken = node.opType === "If" ? condition(node.inputs[0] ?? "") : undefined;
  const branch = taken === undefined ? undefined : node.attributes.get(taken ? "then_branch" : "else_branch");
  if (branch?.kind !== "graph") return [node];
  const inner = settle(branch.value, condition);
  for (const [name, tensor] of inner.initializers) initializers.set(name, tensor);
  const results = inner.outputs.map(
    ({ name }, i): OnnxNode => ({
      ...node,
      opType: "Identity",
      name: "",
      inputs: [name],
      outputs: [node.outputs[i] ?? ""],
      attributes: new Map(),
    }),
  );
  return [...inner.nodes, ...results];
}
