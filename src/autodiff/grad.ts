import { atPath, EspalierError, formatShape, type Graph, isFloat, type Node, type Tensor } from "../graph/index.ts";
import { type AnyOp, add, chunksOp, fill, whenOp, zerosLike } from "../ops/index.ts";
import { chunksGradient } from "./chunks.ts";
import { Recomputation } from "./rematerialise.ts";
import { whenGradient } from "./when.ts";

/**
 * Reverse-mode differentiation, graph to graph: adds to the graph the gradient of `loss` for each tensor of `wrt`.
 * `loss` must be one element unless `seed`, its own gradient, is given. A tensor that the loss does not depend on gets zeros.
 * The result consists of ordinary tensors and can be differentiated again.
 */
export function grad(loss: Tensor, wrt: readonly Tensor[], seed?: Tensor): Tensor[] {
  if (!seed && loss.shape.some((d) => d !== 1)) {
    throw new EspalierError(
      "not-scalar",
      `grad needs a loss of one element, got shape ${formatShape(loss.shape)}: reduce it with sum or mean, or give its gradient as the seed.`,
    );
  }
  return vjp([loss], [seed ?? fill(loss.shape, 1, loss.dtype)], wrt).map((g, i) => g ?? zerosLike(wrt[i]!));
}

/**
 * As {@link grad}, for several outputs with a gradient each; undefined where nothing flows. With `within`, only nodes of that graph are
 * differentiated and all values from outside count as independent, even where one depends on another.
 */
export function vjp(
  outputs: readonly Tensor[],
  seeds: readonly (Tensor | undefined)[],
  wrt: readonly Tensor[],
  within?: Graph,
): (Tensor | undefined)[] {
  const onPath = dependents(outputs, wrt, within);
  const gradients = new Map<Tensor, Tensor>();
  const accumulate = (t: Tensor, g: Tensor) => {
    const sofar = gradients.get(t);
    gradients.set(t, sofar ? atPath(backwardPath(t.node.path), () => add(sofar, g)) : g);
  };
  for (const [i, t] of outputs.entries()) if (seeds[i] && (onPath.has(t.node) || wrt.includes(t))) accumulate(t, seeds[i]);

  const recomputation = new Recomputation();
  const order = [...onPath].sort((a, b) => b.id - a.id);
  for (const node of order) {
    const dys = node.outputs.map((t) => gradients.get(t));
    const some = dys.find((dy) => dy !== undefined);
    if (!some) continue;
    const values = recomputation.nodeFor(node, some);
    const partial = atPath(backwardPath(node.path), () => nodeGradient(values, dys));
    for (const [name, g] of Object.entries(partial)) {
      const operand = node.inputs[name];
      if (operand && g && (onPath.has(operand.node) || wrt.includes(operand))) accumulate(operand, g);
    }
  }
  return wrt.map((t) => gradients.get(t));
}

/** Backward nodes carry the path of the forward node and this mark, so that a compiled graph and its profile read by module. */
export const backward = "backward";
const backwardPath = (path: string): string => (path.split("/").includes(backward) ? path : path === "" ? backward : `${path}/${backward}`);

function nodeGradient(node: Node, dys: readonly (Tensor | undefined)[]): Record<string, Tensor | undefined> {
  if (node.op === whenOp) return whenGradient(node, dys);
  if (node.op === chunksOp) return chunksGradient(node, dys);
  const { definition } = node.op as AnyOp;
  if (!definition?.grad) return {};
  const [y] = node.outputs;
  const dy = dys[0] ?? zerosLike(y!);
  return definition.grad({ ...node.inputs, y, outputs: node.outputs }, dy, node.attrs, dys) as Record<string, Tensor | undefined>;
}

/** The nodes through which a gradient can reach one of `wrt` from `outputs`: ancestors of the outputs that depend on `wrt` by differentiable values. */
function dependents(outputs: readonly Tensor[], wrt: readonly Tensor[], within: Graph | undefined): Set<Node> {
  const wanted = new Set(wrt);
  const reaches = new Map<Node, boolean>();
  const stack: { node: Node; expanded: boolean }[] = outputs.map((t) => ({ node: t.node, expanded: false }));
  // An explicit stack: deep models would overflow the call stack.
  while (stack.length > 0) {
    const { node, expanded } = stack.pop()!;
    if (reaches.has(node) || (within && node.graph !== within)) continue;
    const operands = Object.values(node.inputs).filter((t): t is Tensor => t !== undefined && isFloat(t.dtype));
    if (!expanded) {
      stack.push({ node, expanded: true });
      for (const t of operands) if (!reaches.has(t.node)) stack.push({ node: t.node, expanded: false });
      continue;
    }
    const differentiable = node.op === whenOp || node.op === chunksOp || (node.op as AnyOp).definition?.grad !== undefined;
    reaches.set(node, differentiable && operands.some((t) => wanted.has(t) || reaches.get(t.node)));
  }
  return new Set([...reaches].filter(([, r]) => r).map(([node]) => node));
}
