import {
  atPath,
  constantOp,
  Graph,
  inputOp,
  type Node,
  reachable,
  type Tensor,
  type Traced,
  type TypedArray,
  tracing,
  type Variable,
  variableOp,
} from "../graph/index.ts";
import type { AnyOp, Operands } from "./define.ts";

/** What stands in the place of parts of a graph. */
export interface Rewriting {
  /** Another value for a variable; undefined leaves it. Called in the graph that is being made. */
  variable?(variable: Variable): Tensor | undefined;
  /** The outputs of a node, given its operands in the graph that is being made; undefined leaves it the operator that it is. */
  node?(node: Node, operands: Operands): readonly Tensor[] | undefined;
}

/**
 * The same computation with parts of it replaced: every node that an output depends on is traced again, so shapes follow from what was replaced. Inputs,
 * outputs and module paths keep their names. For graphs that compute something: updates of variables are refused, and so are branches.
 */
export function rewrite({ graph, outputs }: Traced, { variable, node }: Rewriting): Traced {
  if (graph.updates.size > 0) throw new Error("a graph that updates variables is not rewritten");
  const live = reachable(Object.values(outputs));
  const made = new Graph();
  const values = new Map<Tensor, Tensor>();
  const leaf = (n: Node): Tensor | undefined => {
    const { dtype, shape } = n.outputs[0] ?? {};
    if (n.op === inputOp) return made.input(n.attrs.name as string, dtype!, shape!);
    if (n.op === constantOp) return made.constant(dtype!, shape as number[], n.attrs.data as TypedArray);
    if (n.op !== variableOp) return undefined;
    const v = n.attrs.variable as Variable;
    return variable?.(v) ?? made.variable(v);
  };
  const again = (n: Node): readonly Tensor[] => {
    const known = leaf(n);
    if (known) return [known];
    if (Object.values(n.attrs).some((value) => (value as { graph?: unknown } | undefined)?.graph instanceof Graph))
      throw new Error(`${n.op.name} (${n.path}) holds a graph of its own and is not rewritten`);
    const operands = Object.fromEntries(Object.entries(n.inputs).map(([name, t]) => [name, t && values.get(t)!]));
    return node?.(n, operands) ?? (n.op as AnyOp).all(operands, n.attrs);
  };
  return tracing(made, () => {
    for (const n of graph.nodes) {
      if (!live.has(n) && n.op !== inputOp) continue;
      const results = atPath(n.path, () => again(n));
      for (const [i, t] of n.outputs.entries()) values.set(t, results[i]!);
    }
    return { graph: made, outputs: Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, values.get(t)!])) };
  });
}
