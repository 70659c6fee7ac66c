import { type Node, reachable, type Tensor } from "../graph/index.ts";
import { type Branch, branch, captures } from "./control.ts";
import { type AnyOp, defineOp, type Operands, shapeError } from "./define.ts";
import { add } from "./elementwise.ts";
import { scalar } from "./emission.ts";
import { fill } from "./movement.ts";
import { chunkNumbers, cutting, scanChunks } from "./row-chunks.ts";

/** What is traced for one chunk. */
export interface ChunkBody extends Branch {
  /** The leaves that stand for a chunk of each operand, by the operand's name. */
  readonly parts: ReadonlyMap<string, Tensor>;
  /** The leaf that stands for the chunk's number, int64 []. */
  readonly number: Tensor;
  /** How many of the results have a row for each row of the chunk; those after them are added up over the chunks. */
  readonly rowResults: number;
  /** For each result that is added up: the leaf for the sum so far, and the sum with this chunk's part. */
  readonly sums: readonly { state: Tensor; next: Tensor }[];
}

export interface ChunksAttrs {
  body: ChunkBody;
  limit: number;
  /** Operands whose rows are zeros where a last chunk is filled up; of the others the last row is repeated, so that values stay sane. */
  zeroFilled: ReadonlySet<string>;
}

/** `rows.<name>` are cut into chunks; `capture.<i>` are outer tensors that the body reads. */
const rowPrefix = "rows.";

export const chunksOp = defineOp<Operands, ChunksAttrs>({
  name: "Chunks",
  type: (inputs, { body }) =>
    body.results.map(({ dtype, shape }, i) => ({ dtype, shape: i < body.rowResults ? [rowsOf(inputs), ...shape.slice(1)] : shape })),
  emit: (refs, { body, limit, zeroFilled }, { inputs, read }) => {
    const rows = rowsOf(inputs);
    const wanted = [...body.results.keys()].filter((i) => read[i]);
    const ofRows = wanted.filter((i) => i < body.rowResults);
    const added = wanted.filter((i) => i >= body.rowResults);
    const chunks = cutting(rows, limit);
    const slices = [...body.parts].map(([name, leaf]) => {
      const given = { ref: refs[rowPrefix + name]!, type: inputs[rowPrefix + name]! };
      return { leaf, ref: chunks.split(given, zeroFilled.has(name) ? "zeros" : "last row") };
    });
    const scanned = scanChunks(chunks, {
      graph: body.graph,
      slices: [...slices, { leaf: body.number, ref: chunkNumbers(rows, limit) }],
      rows: ofRows.map((i) => body.results[i]!),
      sums: added.map((i) => body.sums[i - body.rowResults]!),
    });
    // What nobody reads is not computed, and anything stands for it.
    return body.results.map(({ dtype }, i) => scanned.rows[ofRows.indexOf(i)] ?? scanned.sums[added.indexOf(i)] ?? scalar(dtype, 0));
  },
  // The gradient computes each chunk again; see autodiff/chunks.ts.
});

const rowsOf = (inputs: Operands): number => Object.entries(inputs).find(([name]) => name.startsWith(rowPrefix))![1]!.shape[0] as number;

/** Traces what is computed for one chunk, given its part of each operand and its number from 0, int64 []. Every result has a row for each row of the chunk. */
export type OfChunk = (parts: Readonly<Record<string, Tensor>>, number: Tensor) => readonly Tensor[];

/**
 * Computes `fn` for chunks of at most `limit` rows, one after the other: what it holds meanwhile is there for one chunk at a time. Its gradient computes
 * each chunk again, for the same reason; only the operands and the results are kept in between (Chen et al., "Training Deep Nets with Sublinear Memory
 * Cost"). `fn` is traced once. It may read tensors of the graph around it, as weights, and gradients flow to them as well.
 *
 * @param cut tensors of as many rows each, a number known while tracing; so many rows as fit one chunk are computed as they are
 * @throws EspalierError `shape-mismatch`
 */
export function inChunks(cut: Readonly<Record<string, Tensor>>, limit: number, fn: OfChunk): readonly Tensor[] {
  const fail = (reason: string) => shapeError("inChunks", { ...cut }, reason);
  const rows = Object.values(cut)[0]?.shape[0];
  if (typeof rows !== "number" || rows < 1 || Object.values(cut).some((t) => t.shape[0] !== rows))
    throw fail("every operand must have the same number of rows, known while tracing and at least 1");
  if (!Number.isInteger(limit) || limit < 1) throw fail(`a chunk must have at least one row, got ${limit}`);
  if (rows <= limit) return fn(cut, fill([], 0, "int64"));
  return chunked(cut, { limit, zeroFilled: new Set() }, (parts, number) => ({ rows: fn(parts, number), sums: [] }));
}

/** As {@link inChunks}, with results that are added up over the chunks behind those by rows. */
export function chunked(
  cut: Readonly<Record<string, Tensor>>,
  { limit, zeroFilled }: Omit<ChunksAttrs, "body">,
  fn: (...of: Parameters<OfChunk>) => { rows: readonly Tensor[]; sums: readonly Tensor[] },
): readonly Tensor[] {
  const { size } = cutting(Object.values(cut)[0]!.shape[0]!, limit);
  const body = bodyOf(cut, size as number, fn);
  const rows = Object.entries(cut).map(([name, t]) => [rowPrefix + name, t] as const);
  const captured = captures({ graph: body.graph, results: [...body.results, ...body.sums.map(({ next }) => next)] });
  const inputs = Object.fromEntries([...rows, ...captured.map((t, i) => [`capture.${i}`, t] as const)]);
  return chunksOp.all(inputs, { body, limit, zeroFilled });
}

function bodyOf(cut: Readonly<Record<string, Tensor>>, size: number, fn: Parameters<typeof chunked>[2]): ChunkBody {
  let made: Leaves | undefined;
  const traced = branch((graph) => {
    const leaf = (name: string, { dtype, shape }: Pick<Tensor, "dtype" | "shape">) => graph.input(name, dtype, shape);
    const parts = new Map(
      Object.entries(cut).map(([name, { dtype, shape }]) => [name, leaf(name, { dtype, shape: [size, ...shape.slice(1)] })]),
    );
    const number = leaf("number of the chunk", { dtype: "int64", shape: [] });
    const { rows, sums } = fn(Object.fromEntries(parts), number);
    for (const result of rows)
      if (result.shape[0] !== size) throw shapeError("inChunks", { result }, `each result must have a row for each of the chunk's ${size}`);
    const states = sums.map((t, i) => leaf(`sum ${i}`, t));
    made = { parts, number, rowResults: rows.length, sums: sums.map((t, i) => ({ state: states[i]!, next: add(states[i]!, t) })) };
    return [...rows, ...sums];
  });
  return withCopy(traced, made!);
}

type Leaves = Omit<ChunkBody, keyof Branch>;

/** A body, and how it is copied with its leaves. */
const withCopy = (traced: Branch, { parts, number, rowResults, sums }: Leaves): ChunkBody => ({
  graph: traced.graph,
  results: traced.results,
  parts,
  number,
  rowResults,
  sums,
  copied: (copy, at) =>
    withCopy(copy, {
      parts: new Map([...parts].map(([name, leaf]) => [name, at(leaf)])),
      number: at(number),
      rowResults,
      sums: sums.map(({ state, next }) => ({ state: at(state), next: at(next) })),
    }),
});

/** The operands of a node of {@link chunksOp}: those that are cut, by their names in the body, and those that its body reads whole. */
export function chunkOperands({ inputs }: Node): { cut: Record<string, Tensor>; captured: Tensor[] } {
  const entries = Object.entries(inputs) as [string, Tensor][];
  const [cut, whole] = [entries.filter(([name]) => name.startsWith(rowPrefix)), entries.filter(([name]) => !name.startsWith(rowPrefix))];
  return { cut: Object.fromEntries(cut.map(([name, t]) => [name.slice(rowPrefix.length), t])), captured: whole.map(([, t]) => t) };
}

/** What a node of {@link chunksOp} computes for every chunk, as far as `read` holds its outputs, and how many chunks there are; undefined for another node. */
export function chunkWork(
  n: Node,
  read: ReadonlySet<Tensor>,
): { nodes: readonly Node[]; results: readonly Tensor[]; times: number } | undefined {
  if ((n.op as AnyOp) !== chunksOp) return undefined;
  const { body, limit } = n.attrs as unknown as ChunksAttrs;
  const results = body.results.filter((_, i) => read.has(n.outputs[i]!));
  const nodes = [...reachable(results)].filter((inner) => inner.graph === body.graph);
  return { nodes, results, times: Math.ceil(rowsOf(n.inputs) / limit) };
}
