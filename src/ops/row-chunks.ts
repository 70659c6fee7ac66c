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
    const states = sums.map((t, i) => graph.input(`sum ${i}`, t.dtype, t.shape));
    return { rows: ofRows, sums: sums.map((t, i) => ({ state: states[i]!, next: add(states[i]!, t) })) };
  });
  const given = Object.values(cut);
  return scanChunks(chunks, { graph, ...traced, slices: slices.map((leaf, i) => ({ leaf, ref: chunks.split(given[i]!) })), outer });
}

interface Scanned {
  graph: Graph;
  /** Leaves of the graph that stand for a chunk of a value, and all the chunks. */
  slices: readonly { leaf: Tensor; ref: Ref }[];
  /** Results with a row for each row of the chunk. */
  rows: readonly Tensor[];
  /** For each result that is added up: the leaf for the sum so far, and the sum with the chunk's part. */
  sums: readonly { state: Tensor; next: Tensor }[];
  /** Leaves that stand for values outside. */
  outer?: ReadonlyMap<Tensor, Ref>;
}

/** A Scan over chunks: its results by rows joined again, and its sums. */
export function scanChunks(chunks: Cutting, { graph, slices, rows, sums, outer }: Scanned): { rows: Ref[]; sums: Ref[] } {
  const inputs = [...sums.map(({ state }) => state), ...slices.map(({ leaf }) => leaf)];
  const scan = node(
    "Scan",
    [...sums.map(({ state }) => zeros(state.dtype, dims(state.shape))), ...slices.map(({ ref }) => ref)],
    {
      body: { graph, results: [...sums.map(({ next }) => next), ...rows], inputs, ...(outer && { outer }) },
      num_scan_inputs: slices.length,
    },
    { outputs: sums.length + rows.length },
  );
  return {
    sums: sums.map((_, i) => result(scan, i)),
    rows: rows.map((t, i) => chunks.join(result(scan, sums.length + i), t.shape.slice(1))),
  };
}

const zeros = (dtype: TensorType["dtype"], shape: Ref): Ref => node("Expand", [scalar(dtype, 0), shape]);
const vector = (...parts: Ref[]): Ref => node("Concat", parts, { axis: 0 });

/** How rows fall into chunks of one size. */
export interface Cutting {
  size: Dim;
  /** The chunks of a tensor; `filler`: what fills up the last one, zeros unless told. */
  split(given: Given, filler?: "zeros" | "last row"): Ref;
  join(x: Ref, rest: Shape): Ref;
}

/** The numbers of the chunks, int64 [chunks]. */
export const chunkNumbers = (rows: number, limit: number): Ref => int64s(Array.from({ length: Math.ceil(rows / limit) }, (_, i) => i));

/** How `rows` rows fall into chunks of one size, at most `limit`, and how a tensor of rows becomes chunks and comes back from them. */
export function cutting(rows: Dim, limit: number): Cutting {
  if (typeof rows === "number") {
    const count = Math.max(1, Math.ceil(rows / limit));
    const size = Math.ceil(rows / count);
    const missing = count * size - rows;
    return {
      size,
      split: ({ ref, type }, filler = "zeros") => {
        const rest = type.shape.slice(1);
        const filling = () =>
          filler === "zeros"
            ? zeros(type.dtype, dims([missing, ...rest]))
            : node("Expand", [node("Slice", [ref, int64s([rows - 1]), int64s([rows]), int64s([0])]), dims([missing, ...rest])]);
        const filled = missing === 0 ? ref : node("Concat", [ref, filling()], { axis: 0 });
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
