import {
  constantOp,
  type DType,
  dtypeSize,
  elementCount,
  inputOp,
  reachable,
  type Tensor,
  type Traced,
  type Variable,
  variableOp,
} from "../graph/index.ts";
import { countMatmulFlops, linearCrossEntropyWorkspace } from "../ops/index.ts";

export interface StepEstimate {
  /** Bytes of frozen weights, mapped from their file. */
  frozenBytes: number;
  /** Bytes of trained weights and optimizer state, both buffers of each. */
  stateBytes: number;
  /** Bytes of the largest set of intermediate values that must exist at once. */
  activationBytes: number;
  /** Operations of the matrix products of one step. */
  flops: number;
}

/** Operators whose result is a view of their operand. */
const views = new Set(["Reshape", "StopGradient", "StraightThrough", "Identity"]);

const bytesOf = (t: Tensor): number =>
  t.shape.every((d): d is number => typeof d === "number") ? elementCount(t.shape) * dtypeSize[t.dtype] : 0;

/**
 * What one run of a traced step will need, before it runs: the nodes are walked in the order of their creation, and each value lives from its node to its last reader.
 * ONNX Runtime orders and reuses a little differently, so the figure is an estimate.
 */
export function estimateStep(traced: Traced): StepEstimate {
  const { graph } = traced;
  const results = [...Object.values(traced.outputs), ...graph.updates.values()];
  const nodes = [...reachable(results)].sort((a, b) => a.id - b.id);
  let [frozenBytes, stateBytes] = [0, 0];
  const lastUse = new Map<Tensor, number>();
  // A view keeps its operand alive.
  const root = new Map<Tensor, Tensor>();
  const rootOf = (t: Tensor): Tensor => root.get(t) ?? t;
  for (const [at, n] of nodes.entries()) {
    const operands = Object.values(n.inputs).filter((t): t is Tensor => t !== undefined);
    if (views.has(n.op.name) && operands[0]) root.set(n.outputs[0]!, rootOf(operands[0]));
    for (const t of operands) lastUse.set(rootOf(t), at);
  }
  for (const t of results) lastUse.set(rootOf(t), nodes.length);
  const dying = new Map<number, Tensor[]>();
  for (const [t, at] of lastUse) dying.set(at, [...(dying.get(at) ?? []), t]);

  let [live, activationBytes] = [0, 0];
  const held = new Set<Tensor>();
  for (const [at, n] of nodes.entries()) {
    if (n.op === variableOp) {
      const { frozen, dtype, constantDtype = dtype, shape } = n.attrs.variable as Variable;
      const bytes = (type: DType) => elementCount(shape) * dtypeSize[type];
      if (frozen) frozenBytes += bytes(constantDtype);
      else stateBytes += 2 * bytes(dtype);
    } else if (n.op !== inputOp && n.op !== constantOp) {
      for (const t of n.outputs) {
        if (rootOf(t) !== t || !lastUse.has(t)) continue;
        held.add(t);
        live += bytesOf(t);
      }
      activationBytes = Math.max(activationBytes, live + linearCrossEntropyWorkspace(n) * dtypeSize[n.outputs[0]!.dtype]);
    }
    for (const t of dying.get(at) ?? []) if (held.delete(t)) live -= bytesOf(t);
  }
  return { frozenBytes, stateBytes, activationBytes, flops: countMatmulFlops(traced) };
}
