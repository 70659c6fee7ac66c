import { type Dim, Graph, type Shape, symbol, type Tensor, type TensorType, tracing } from "../graph/index.ts";
import { add } from "./elementwise.ts";
import { dims, int64s, node, type Ref, result, scalar } from "./emission.ts";

/** A value with what the graph knows of it. */
export interface Given {
  readonly ref: Ref;
  readonly type: TensorType;
}

/** What one chunk gives: tensors with a row for each of its rows, and tensors to be added up over the chunks. */
export interface OfChunk {
  readonly rows?: readonly Tensor[];
  readonly sums?: readonly Tensor[];
}

export interface RowChunks {
  /** The number of rows, and how many of them a chunk has at most. */
  rows: Dim;
  limit: number;
  /** Cut into chunks along the first axis, which has `rows` rows. A last chunk that would be short is filled up with zeros. */
  cut: Readonly<Record<string, Given>>;
  /** Seen by every chunk. */
  whole: Readonly<Record<string, Given | undefined>>;
  /** Traced once. It may not ask for the number of rows, which is a symbol where `rows` is one. */
  fn: (inputs: Readonly<Record<string, Tensor>>) => OfChunk;
}

/**
 * The ONNX nodes that compute `fn` for chunks of rows, one after the other: a Scan, whose body frees its memory before the next chunk comes. As many
 * nodes side by side would hold all chunks at once, in whatever order ONNX Runtime puts them.
 */
export function inRowChunks({ rows, limit, cut, whole, fn }: RowChunks): { rows: Ref[]; sums: Ref[] } {
  const chunks = cutting(rows, limit);
  const graph = new Graph();
  const outer = new Map<Tensor, Ref>();
  const slices: Tensor[] = [];
  const states: Tensor[] = [];
  const traced = tracing(graph, () => {
    const inputs: Record<string, Tensor> = {};
    for (const [name, given] of Object.entries(whole)) {
      if (!given) continue;
      inputs[name] = graph.input(name, given.type.dtype, given.type.shape);
      outer.set(inputs[name], given.ref);
    }
    for (const [name, { type }] of Object.entries(cut)) {
      inputs[name] = graph.input(name, type.dtype, [chunks.size, ...type.shape.slice(1)]);
      slices.push(inputs[name]);
    }
    const { rows: ofRows = [], sums = [] } = fn(inputs);
    states.push(...sums.map((t, i) => graph.input(`sum ${i}`, t.dtype, t.shape)));
    return { rows: ofRows, sums: sums.map((t, i) => add(states[i]!, t)) };
  });
  const outputs = traced.sums.length + traced.rows.length;
  const scan = node(
    "Scan",
    [...states.map((t) => zeros(t.dtype, dims(t.shape))), ...Object.values(cut).map((given) => chunks.split(given))],
    { body: { graph, results: [...traced.sums, ...traced.rows], inputs: [...states, ...slices], outer }, num_scan_inputs: slices.length },
    { outputs },
  );
  return {
    sums: traced.sums.map((_, i) => result(scan, i)),
    rows: traced.rows.map((t, i) => chunks.join(result(scan, traced.sums.length + i), t.shape.slice(1))),
  };
}

const zeros = (dtype: TensorType["dtype"], shape: Ref): Ref => node("Expand", [scalar(dtype, 0), shape]);
const vector = (...parts: Ref[]): Ref => node("Concat", parts, { axis: 0 });

/** How `rows` rows fall into chunks of one size, at most `limit`, and how a tensor of rows becomes chunks and comes back from them. */
function cutting(rows: Dim, limit: number): { size: Dim; split(given: Given): Ref; join(x: Ref, rest: Shape): Ref } {
  if (typeof rows === "number") {
    const count = Math.max(1, Math.ceil(rows / limit));
    const size = Math.ceil(rows / count);
    const missing = count * size - rows;
    return {
      size,
      split: ({ ref, type }) => {
        const rest = type.shape.slice(1);
        const filled = missing === 0 ? ref : node("Concat", [ref, zeros(type.dtype, dims([missing, ...rest]))], { axis: 0 });
        return node("Reshape", [filled, dims([count, size, ...rest])]);
      },
      join: (x, rest) => {
        const joined = node("Reshape", [x, dims([count * size, ...rest])]);
        return missing === 0 ? joined : node("Slice", [joined, int64s([0]), int64s([rows]), int64s([0])]);
      },
    };
  }
  // The same arithmetic, done when the program runs.
  const ceil = (a: Ref, b: Ref) => node("Div", [node("Sub", [node("Add", [a, b]), int64s([1])]), b]);
  const total = dims([rows]);
  const count = node("Max", [ceil(total, int64s([limit])), int64s([1])]);
  const size = ceil(total, count);
  const missing = node("Sub", [node("Mul", [count, size]), total]);
  return {
    size: symbol("rows_of_a_chunk"),
    split: ({ ref, type }) => {
      const rest = type.shape.slice(1).length === 0 ? [] : [dims(type.shape.slice(1))];
      const filled = node("Concat", [ref, zeros(type.dtype, vector(missing, ...rest))], { axis: 0 });
      return node("Reshape", [filled, vector(count, size, ...rest)]);
    },
    join: (x, rest) => node("Slice", [node("Reshape", [x, dims([-1, ...rest])]), int64s([0]), total, int64s([0])]),
  };
}
