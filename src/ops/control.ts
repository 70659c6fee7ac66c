import { currentGraph, dimsEqual, formatShape, Graph, type Node, shapesEqual, sizeOf, type Tensor, tracing } from "../graph/index.ts";
import { type AnyOp, defineOp, type Operands, shapeError } from "./define.ts";
import { node, result } from "./emission.ts";

/** A traced branch: its graph, what it returns, and the outer values that it reads. */
export interface Branch {
  readonly graph: Graph;
  readonly results: readonly Tensor[];
  /** What more is known of a copy, of a branch of which more is known: `at` finds the copy of a tensor. */
  copied?(copy: Branch, at: (t: Tensor) => Tensor): Branch;
}

interface WhenAttrs {
  /** What runs when the gate is true. */
  open: Branch;
  closed: Branch;
}

/** The operands of a `when` node: the gate, and every outer tensor that a branch reads (`capture0`, …). */
type WhenInputs = Operands & { gate: Tensor };

export const whenOp = defineOp<WhenInputs, WhenAttrs>({
  name: "When",
  type: ({ gate }, { open, closed }) => {
    if (gate.dtype !== "bool" || !dimsEqual(sizeOf(gate.shape), 1)) throw shapeError("When", { gate }, "the gate must be one bool");
    if (open.results.length !== closed.results.length)
      throw shapeError("When", { gate }, `the branches return ${open.results.length} and ${closed.results.length} tensors`);
    return open.results.map((a, i) => {
      const b = closed.results[i]!;
      if (a.dtype !== b.dtype || !shapesEqual(a.shape, b.shape)) {
        throw shapeError(
          "When",
          { gate },
          `result ${i} is ${a.dtype} ${formatShape(a.shape)} in one branch and ${b.dtype} ${formatShape(b.shape)} in the other`,
        );
      }
      return { dtype: a.dtype, shape: a.shape };
    });
  },
  emit: ({ gate }, { open, closed }) => {
    const first = node("If", [gate], { then_branch: open, else_branch: closed }, { outputs: open.results.length });
    return open.results.map((_, i) => result(first, i));
  },
  // The gradient of a branch recomputes the branch's values: nothing is saved for a branch that did not run. See autodiff/when.ts.
});

/** Traces `fn` as a graph of its own that may read the values of the graph being traced. */
export function branch(fn: (graph: Graph) => readonly Tensor[]): Branch {
  const graph = new Graph(currentGraph());
  return { graph, results: tracing(graph, () => fn(graph)) };
}

/** Outer tensors that a branch reads, nested branches included, in order of first use. */
export function captures({ graph, results }: Branch): Tensor[] {
  const inside = new Set<Node>(graph.nodes);
  const outer = new Set<Tensor>();
  const visit = (t: Tensor | undefined) => {
    if (t && !inside.has(t.node)) outer.add(t);
  };
  for (const n of graph.nodes) for (const t of Object.values(n.inputs)) visit(t);
  for (const t of results) visit(t);
  return [...outer];
}

/**
 * Runs one of two branches, chosen at run time by a bool: the other one costs nothing. Both return the same number of tensors of the same types.
 * Work of the outer graph that only one branch reads is moved into it when the program is compiled, so that
 * `when(gate, () => [update(p, gradient)], () => [p])` skips the gradient too.
 */
export function when(gate: Tensor, then: () => readonly Tensor[], otherwise: () => readonly Tensor[]): readonly Tensor[] {
  return whenOf(gate, branch(then), branch(otherwise));
}

/** As {@link when}, of branches that are traced already. */
export function whenOf(gate: Tensor, open: Branch, closed: Branch): readonly Tensor[] {
  const outer = [...new Set([...captures(open), ...captures(closed)])];
  const inputs: WhenInputs = { gate, ...Object.fromEntries(outer.map((t, i) => [`capture${i}`, t])) };
  return whenOp.all(inputs, { open, closed });
}

/** Copies the nodes of `graph` into the graph being traced; `replace` says which outer or inner tensors are others now. Returns the map. */
export function inline(graph: Graph, replace: Map<Tensor, Tensor> = new Map()): Map<Tensor, Tensor> {
  for (const n of graph.nodes) if (!n.outputs.every((t) => replace.has(t))) copyNode(n, replace);
  return replace;
}

/** Copies one node into the graph being traced, with operands as `replace` says, and notes its outputs there. */
export function copyNode(n: Node, replace: Map<Tensor, Tensor>): Node {
  const target = currentGraph();
  const copy = (b: Branch): Branch => {
    const inner = new Graph(target);
    return tracing(inner, () => {
      const map = inline(b.graph, new Map(replace));
      const at = (t: Tensor) => map.get(t) ?? t;
      const copied = { graph: inner, results: b.results.map(at) };
      return b.copied?.(copied, at) ?? copied;
    });
  };
  const inputs = Object.fromEntries(Object.entries(n.inputs).map(([name, t]) => [name, t && (replace.get(t) ?? t)]));
  const attrs = Object.fromEntries(Object.entries(n.attrs).map(([name, value]) => [name, isBranch(value) ? copy(value) : value]));
  const made = target.add(n.op as AnyOp, inputs, attrs, n.outputs);
  for (const [i, t] of n.outputs.entries()) replace.set(t, made.outputs[i]!);
  return made;
}

const isBranch = (value: unknown): value is Branch => (value as Branch | undefined | null)?.graph instanceof Graph;
