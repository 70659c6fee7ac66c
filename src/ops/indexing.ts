import { currentGraph, type Dim, dimsEqual, type Node, shapesEqual, sizeOf, type Tensor } from "../graph/index.ts";
import { defineOp, normalizeAxis, shapeError } from "./define.ts";
import { cast, equal } from "./elementwise.ts";
import { dims, int64s, node, scalar } from "./emission.ts";
import { fill, range, reshape, transpose, unsqueeze } from "./movement.ts";

const isIndex = (t: Tensor): boolean => t.dtype === "int64" || t.dtype === "int32";

const gatherOp = defineOp<{ x: Tensor; indices: Tensor }, { axis: number }>({
  name: "Gather",
  type: ({ x, indices }, { axis }) => {
    if (!isIndex(indices)) throw shapeError("Gather", { x, indices }, "indices must be int64 or int32");
    return { dtype: x.dtype, shape: [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)] };
  },
  emit: ({ x, indices }, { axis }) => node("Gather", [x, indices], { axis }),
  grad: ({ x, indices }, dy, { axis }) => {
    const rows = reshape(indices, [-1]);
    const flat = reshape(dy, [...x.shape.slice(0, axis), sizeOf(indices.shape), ...x.shape.slice(axis + 1)]);
    return { x: moveAxis(scatterAdd(moveAxis(flat, axis, 0), rows, x.shape[axis]!), 0, axis) };
  },
});

/** Rows of `x` along an axis chosen by an index tensor of any shape: an embedding lookup when the axis is 0. */
export const gather = (x: Tensor, indices: Tensor, axis = 0): Tensor =>
  gatherOp({ x, indices }, { axis: normalizeAxis(axis, x.rank, "Gather", { x, indices }) });

/** Embedding lookup: rows of `table` [vocabulary, width] for int64 `ids` [...] → [..., width]. */
export const embedding = (ids: Tensor, table: Tensor): Tensor => gather(table, ids, 0);

/** The operands of an {@link embedding}. */
export const lookupOf = ({ op, attrs, inputs }: Node): { table: Tensor; ids: Tensor } | undefined =>
  op === gatherOp && attrs.axis === 0 ? { table: inputs.x!, ids: inputs.indices! } : undefined;

function moveAxis(x: Tensor, from: number, to: number): Tensor {
  if (from === to) return x;
  const order = x.shape.map((_, i) => i).filter((i) => i !== from);
  order.splice(to, 0, from);
  return transpose(x, order);
}

const scatterAddOp = defineOp<{ rows: Tensor; indices: Tensor }, { size: Dim }>({
  name: "ScatterAdd",
  type: ({ rows, indices }, { size }) => {
    if (!isIndex(indices) || indices.rank !== 1 || !dimsEqual(indices.shape[0]!, rows.shape[0] ?? 0))
      throw shapeError("ScatterAdd", { rows, indices }, "one index per row is needed");
    return { dtype: rows.dtype, shape: [size, ...rows.shape.slice(1)] };
  },
  emit: ({ rows, indices }, _attrs, { inputs, outputs }) => {
    const zero = node("Expand", [scalar(inputs.rows.dtype, 0), dims(outputs[0]!.shape)]);
    return node(
      "ScatterND",
      [
        zero,
        node("Unsqueeze", [inputs.indices.dtype === "int64" ? indices : node("Cast", [indices], { to: { dtype: "int64" } }), int64s([1])]),
        rows,
      ],
      { reduction: "add" },
    );
  },
  grad: ({ indices }, dy) => ({ rows: gather(dy, indices, 0) }),
});

/** A tensor of `size` rows, zero but for the given rows added at their indices; rows with one index add up. */
export const scatterAdd = (rows: Tensor, indices: Tensor, size: Dim): Tensor => scatterAddOp({ rows, indices }, { size });

/** As {@link scatterAdd} with indices known while tracing, along any axis. */
export function scatterRows(x: Tensor, rows: readonly number[], size: number, axis: number): Tensor {
  const indices = currentGraph().constant("int64", [rows.length], BigInt64Array.from(rows, BigInt));
  return moveAxis(scatterAdd(moveAxis(x, axis, 0), indices, size), 0, axis);
}

const gatherElementsOp = defineOp<{ x: Tensor; indices: Tensor }, { axis: number }>({
  name: "GatherElements",
  type: ({ x, indices }, { axis }) => {
    const fits = isIndex(indices) && indices.rank === x.rank && indices.shape.every((d, i) => i === axis || dimsEqual(d, x.shape[i]!));
    if (!fits) throw shapeError("GatherElements", { x, indices }, `indices must be integers that agree with x in every axis but ${axis}`);
    return { dtype: x.dtype, shape: indices.shape };
  },
  emit: ({ x, indices }, { axis }) => node("GatherElements", [x, indices], { axis }),
  grad: ({ x, indices }, dy, { axis }) => ({ x: gatherElementsGradient(x, indices, dy, axis) }),
});

/** `y[i][j] = x[i][indices[i][j]]` for axis 1, and likewise for others (`torch.gather`). */
export const gatherElements = (x: Tensor, indices: Tensor, axis = -1): Tensor =>
  gatherElementsOp({ x, indices }, { axis: normalizeAxis(axis, x.rank, "GatherElements", { x, indices }) });

const scatterElementsOp = defineOp<{ x: Tensor; indices: Tensor; updates: Tensor }, { axis: number }>({
  name: "ScatterElements",
  type: ({ x, indices, updates }) => {
    if (!isIndex(indices) || !shapesEqual(indices.shape, updates.shape) || x.dtype !== updates.dtype || x.rank !== indices.rank)
      throw shapeError(
        "ScatterElements",
        { x, indices, updates },
        "indices and updates must have one shape, and updates the dtype and rank of x",
      );
    return { dtype: x.dtype, shape: x.shape };
  },
  emit: ({ x, indices, updates }, { axis }) => node("ScatterElements", [x, indices, updates], { axis, reduction: "add" }),
  grad: ({ indices }, dy, { axis }) => ({ x: dy, updates: gatherElements(dy, indices, axis) }),
});

/** `x` with `updates` added at `indices` along an axis (`torch.scatter_add`). */
export const scatterElementsAdd = (x: Tensor, indices: Tensor, updates: Tensor, axis = -1): Tensor =>
  scatterElementsOp({ x, indices, updates }, { axis: normalizeAxis(axis, x.rank, "ScatterElements", { x, indices }) });

/** The gradient of {@link gatherElements} for its operand. */
export const gatherElementsGradient = (x: Tensor, indices: Tensor, dy: Tensor, axis: number): Tensor =>
  scatterElementsAdd(fill(x.shape, 0, x.dtype), indices, dy, axis);

/** int64 `ids` [...] → [..., depth], one at each id's place and zero elsewhere; ids outside give zeros. */
export function oneHot(ids: Tensor, depth: number, dtype: Tensor["dtype"] = "float32"): Tensor {
  if (!isIndex(ids)) throw shapeError("OneHot", { ids }, "ids must be int64 or int32");
  return cast(equal(unsqueeze(cast(ids, "int64"), -1), range(depth)), dtype);
}
