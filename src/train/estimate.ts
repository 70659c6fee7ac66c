import {
  constantOp,
  dtypeSize,
  elementCount,
  inputOp,
  type Node,
  reachable,
  type Tensor,
  type Traced,
  type Variable,
  variableOp,
} from "../graph/index.ts";
import { countMatmulFlops, linearCrossEntropyWorkspace } from "../ops/index.ts";
import { Arena, type Chunk } from "./arena.ts";
import { executionOrder } from "./execution-order.ts";

/** Bytes that a step needs beside what the process holds before. */
export interface StepEstimate {
  /** Frozen weights, mapped from their file, as far as the step reads them. */
  frozenBytes: number;
  /** Trained weights and optimizer state, both buffers of each. */
  stateBytes: number;
  /** Intermediate values: of the memory that ONNX Runtime takes for them, what is ever written to. */
  activationBytes: number;
  /** The largest set of intermediate values that must exist at once: what the above comes from. */
  liveBytes: number;
  /** The compiled programs themselves. */
  programBytes: number;
  /** All of it but `liveBytes`. */
  totalBytes: number;
  /** Operations of the matrix products of one step. */
  flops: number;
}

/** Bytes that a session holds for each operator of the traced graph (measured: from sapling to the shape of SmolLM2-135M). */
const bytesPerNode = 9_000;

/** Around a byte that is read, the operating system maps what lies near: so much at a time (Linux). */
const bytesPerFault = 2 ** 16;

/** Operators whose result is a view of their operand. */
const views = new Set(["Reshape", "StopGradient", "StraightThrough", "Identity"]);

/** Operators that ONNX Runtime lets write over an operand of the same size that nothing else reads. */
const inPlace = new Set(
  "Abs Add After Ceil Clip Cos Div Erf Exp Floor Gelu Log Mul Neg Pow Reciprocal Relu Round Sigmoid Sign Silu Sin Softcap Softmax Sqrt Sub Tanh".split(
    " ",
  ),
);

const bytesOf = (t: Tensor): number =>
  t.shape.every((d): d is number => typeof d === "number") ? elementCount(t.shape) * dtypeSize[t.dtype] : 0;

const operandsOf = (n: Node): Tensor[] => Object.values(n.inputs).filter((t): t is Tensor => t !== undefined);

/**
 * What a step will need, before it runs. `programs`: the step itself, or with accumulation what each of `accumulate` batches does, and the update.
 */
export function estimateStep(programs: Traced | readonly Traced[], accumulate = 1): StepEstimate {
  const list = Array.isArray(programs) ? (programs as readonly Traced[]) : [programs as Traced];
  const parts = list.map((traced) => ({ ...valuesOf(traced), flops: countMatmulFlops(traced) }));
  const sum = (key: keyof (typeof parts)[0]) => parts.reduce((n, part) => n + part[key], 0);
  const variables = new Map(list.flatMap((traced) => [...variableBytes(traced)]).sort(([, a], [, b]) => a - b));
  const bytesWhere = (frozen: boolean) => [...variables].reduce((n, [v, bytes]) => (v.frozen === frozen ? n + bytes : n), 0);
  const estimate = {
    frozenBytes: bytesWhere(true),
    stateBytes: bytesWhere(false),
    // Each session has an arena of its own.
    activationBytes: sum("activationBytes"),
    programBytes: sum("programBytes"),
  };
  const totalBytes = Object.values(estimate).reduce((a, b) => a + b);
  const liveBytes = Math.max(...parts.map((part) => part.liveBytes));
  return { ...estimate, liveBytes, totalBytes, flops: parts[0]!.flops * accumulate };
}

/**
 * Values are allocated and freed as ONNX Runtime does, in the order in which it runs the nodes. The second run counts too, in an arena that the first one
 * has cut up.
 */
function valuesOf(traced: Traced): Pick<StepEstimate, "activationBytes" | "liveBytes" | "programBytes"> {
  const { order, alias } = executionOrder(traced);
  const results = [...Object.values(traced.outputs), ...traced.graph.updates.values()];
  const rootOf = (t: Tensor): Tensor => {
    let root = t;
    for (;;) {
      const below = alias.get(root) ?? (views.has(root.node.op.name) ? operandsOf(root.node)[0] : undefined);
      if (!below) return root;
      root = below;
    }
  };
  const lastUse = new Map<Tensor, number>();
  for (const [at, n] of order.entries()) for (const t of [...operandsOf(n), ...n.outputs]) lastUse.set(rootOf(t), at);
  const dying = new Map<number, Tensor[]>();
  for (const [t, at] of lastUse) dying.set(at, [...(dying.get(at) ?? []), t]);
  // Results have buffers of their own.
  const published = new Set(results.map(rootOf));

  const arena = new Arena();
  let [live, liveBytes] = [0, 0];
  const chunks = new Map<Tensor, Chunk>();
  const isLeaf = ({ op }: Node) => op === inputOp || op === constantOp || op === variableOp;
  const run = () => {
    for (const [at, n] of order.entries()) {
      if (isLeaf(n)) continue;
      const ends = new Set(dying.get(at));
      for (const t of n.outputs) {
        const bytes = bytesOf(t);
        if (rootOf(t) !== t || published.has(t) || bytes === 0) continue;
        const over = inPlace.has(n.op.name)
          ? operandsOf(n)
              .map(rootOf)
              .find((o) => ends.has(o) && chunks.has(o) && bytesOf(o) === bytes)
          : undefined;
        if (over) {
          chunks.set(t, chunks.get(over)!);
          chunks.delete(over);
          continue;
        }
        chunks.set(t, arena.allocate(bytes));
        live += bytes;
      }
      const work = workspaceOf(n).map((bytes) => ({ bytes, chunk: arena.allocate(bytes) }));
      liveBytes = Math.max(
        liveBytes,
        work.reduce((sum, { bytes }) => sum + bytes, live),
      );
      for (const { chunk } of work) arena.release(chunk);
      for (const t of ends) {
        const chunk = chunks.get(t);
        if (!chunk) continue;
        arena.release(chunk);
        chunks.delete(t);
        live -= bytesOf(t);
      }
    }
  };
  run();
  run();
  return { activationBytes: arena.residentBytes, liveBytes, programBytes: order.length * bytesPerNode };
}

/** Bytes that an operator takes while it runs, beside operands and results. */
function workspaceOf(n: Node): number[] {
  return linearCrossEntropyWorkspace(n).map((elements) => elements * dtypeSize[n.outputs[0]!.dtype]);
}

/** Bytes of each variable that the program reads. */
function variableBytes(traced: Traced): Map<Variable, number> {
  const nodes = [...reachable([...Object.values(traced.outputs), ...traced.graph.updates.values()])];
  const rowsOf = new Map<Tensor, number>();
  for (const n of nodes)
    for (const t of operandsOf(n)) {
      const rows =
        n.op.name === "Gather" && n.inputs.x === t
          ? elementCount(n.outputs[0]!.shape as number[]) / (elementCount(t.shape as number[]) / (t.shape[0] as number))
          : Infinity;
      rowsOf.set(t, (rowsOf.get(t) ?? 0) + rows);
    }
  const bytes = new Map<Variable, number>();
  for (const n of nodes) {
    if (n.op !== variableOp) continue;
    const variable = n.attrs.variable as Variable;
    const { dtype, frozen, constantDtype, shape } = variable;
    const size = elementCount(shape) * dtypeSize[(frozen && constantDtype) || dtype];
    const buffers = traced.graph.updates.has(variable) ? 2 : 1;
    // Of a table from which rows are taken, only what lies near them.
    bytes.set(variable, frozen ? Math.min(size, (rowsOf.get(n.outputs[0]!) ?? 0) * bytesPerFault) : size * buffers);
  }
  return bytes;
}
