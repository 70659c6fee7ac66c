import {
  addDims,
  type Dim,
  dimsEqual,
  divDims,
  formatShape,
  type Shape,
  shapesEqual,
  sizeOf,
  subDims,
  type Tensor,
} from "../graph/index.ts";
import { defineOp, normalizeAxis, shapeError } from "./define.ts";
import { broadcastShapes } from "./elementwise.ts";
import { dims, int64s, node, result, scalar } from "./emission.ts";
import { scatterRows } from "./indexing.ts";
import { sumTo } from "./reduce.ts";

const reshapeOp = defineOp<{ x: Tensor }, { shape: Shape }>({
  name: "Reshape",
  type: ({ x }, { shape }) => {
    if (!dimsEqual(sizeOf(shape), sizeOf(x.shape)))
      throw shapeError("Reshape", { x }, `the ${sizeOf(x.shape)} elements do not fill ${formatShape(shape)}`);
    return { dtype: x.dtype, shape };
  },
  emit: ({ x }, { shape }) => node("Reshape", [x, dims(shape)]),
  grad: ({ x }, dy) => ({ x: reshape(dy, x.shape) }),
});

/** The same elements in another shape; one dimension may be −1 and is inferred. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const unknown = shape.indexOf(-1);
  if (shape.filter((d) => d === -1).length > 1)
    throw shapeError("Reshape", { x }, `only one dimension of ${formatShape(shape)} can be inferred`);
  const full = unknown < 0 ? shape : shape.map((d, i) => (i === unknown ? inferred(x, shape) : d));
  return shapesEqual(full, x.shape) ? x : reshapeOp({ x }, { shape: full });
}

function inferred(x: Tensor, shape: Shape): Dim {
  const rest = divDims(sizeOf(x.shape), sizeOf(shape.filter((d) => d !== -1)));
  if (rest === undefined) throw shapeError("Reshape", { x }, `the ${sizeOf(x.shape)} elements do not fill ${formatShape(shape)}`);
  return rest;
}

/** Inserts an axis of size 1. */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const at = normalizeAxis(axis, x.rank + 1, "Unsqueeze", { x });
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

/** Removes an axis of size 1. */
export function squeeze(x: Tensor, axis: number): Tensor {
  const at = normalizeAxis(axis, x.rank, "Squeeze", { x });
  if (x.shape[at] !== 1) throw shapeError("Squeeze", { x }, `axis ${axis} has size ${x.shape[at]}, not 1`);
  return reshape(
    x,
    x.shape.filter((_, i) => i !== at),
  );
}

const transposeOp = defineOp<{ x: Tensor }, { permutation: readonly number[] }>({
  name: "Transpose",
  type: ({ x }, { permutation }) => ({ dtype: x.dtype, shape: permutation.map((p) => x.shape[p]!) }),
  emit: ({ x }, { permutation }) => node("Transpose", [x], { perm: permutation }),
  grad: (_values, dy, { permutation }) => ({
    x: transpose(
      dy,
      permutation.map((_, i) => permutation.indexOf(i)),
    ),
  }),
});

/** Permutes the axes; without a permutation the last two are swapped. */
export function transpose(x: Tensor, permutation?: readonly number[]): Tensor {
  const last = x.rank - 1;
  const perm = permutation ?? x.shape.map((_, i) => (i === last ? last - 1 : i === last - 1 ? last : i));
  const sorted = [...perm].sort((a, b) => a - b);
  if (perm.length !== x.rank || x.rank < 2 || sorted.some((p, i) => p !== i))
    throw shapeError("Transpose", { x }, `[${perm}] is not a permutation of its axes`);
  return transposeOp({ x }, { permutation: perm });
}

const expandOp = defineOp<{ x: Tensor }, { shape: Shape }>({
  name: "Expand",
  type: ({ x }, { shape }) => {
    const result = broadcastShapes(x.shape, shape);
    if (!result || !shapesEqual(result, shape)) throw shapeError("Expand", { x }, `the shape does not stretch to ${formatShape(shape)}`);
    return { dtype: x.dtype, shape };
  },
  emit: ({ x }, { shape }) => node("Expand", [x, dims(shape)]),
  grad: ({ x }, dy) => ({ x: sumTo(dy, x.shape) }),
});

/** Repeats `x` along its axes of size 1 (and new leading axes) until it has `shape`. */
export const expand = (x: Tensor, shape: Shape): Tensor => (shapesEqual(shape, x.shape) ? x : expandOp({ x }, { shape }));

/** Start and end of a slice along one axis. */
interface SliceAttrs {
  axis: number;
  start: Dim;
  end: Dim;
  step: number;
}

const sliceOp = defineOp<{ x: Tensor }, SliceAttrs>({
  name: "Slice",
  type: ({ x }, { axis, start, end, step }) => {
    const length = subDims(end, start);
    return {
      dtype: x.dtype,
      shape: x.shape.map((d, i) => (i !== axis ? d : typeof length === "number" ? Math.ceil(length / step) : length)),
    };
  },
  emit: ({ x }, { axis, start, end, step }) => node("Slice", [x, dims([start]), dims([end]), int64s([axis]), int64s([step])]),
  grad: ({ x }, dy, { axis, start, end, step }) => {
    if (step === 1) return { x: pad(dy, axis, start, subDims(x.shape[axis]!, end)) };
    const size = x.shape[axis] as number;
    const rows = Array.from({ length: Math.ceil(((end as number) - (start as number)) / step) }, (_, i) => (start as number) + i * step);
    return { x: scatterRows(dy, rows, size, axis) };
  },
});

/**
 * Elements `start … end−1` along one axis, every `step`-th. Negative numbers count from the end; `end` may be omitted.
 * Bounds may be symbolic dims; bounds that are values of the graph go to {@link dynamicSlice}.
 */
export function slice(x: Tensor, axis: number, start: Dim, end?: Dim, step = 1): Tensor {
  const at = normalizeAxis(axis, x.rank, "Slice", { x });
  const size = x.shape[at]!;
  const bound = (d: Dim): Dim => (typeof d === "number" && d < 0 ? addDims(size, d) : d);
  const [from, to] = [bound(start), end === undefined ? size : bound(end)];
  if (!Number.isInteger(step) || step < 1) throw shapeError("Slice", { x }, `step ${step} is not a positive integer`);
  if (step !== 1 && [from, to, size].some((d) => typeof d !== "number"))
    throw shapeError("Slice", { x }, "a step other than 1 needs bounds and an axis that are numbers");
  if (typeof from === "number" && typeof to === "number" && (from > to || (typeof size === "number" && to > size) || from < 0)) {
    throw shapeError("Slice", { x }, `bounds ${start}…${end} do not lie in axis ${axis} of size ${size}`);
  }
  return dimsEqual(from, 0) && dimsEqual(to, size) && step === 1 ? x : sliceOp({ x }, { axis: at, start: from, end: to, step });
}

const dynamicSliceOp = defineOp<{ x: Tensor; start: Tensor }, { axis: number; length: Dim }>({
  name: "DynamicSlice",
  type: ({ x }, { axis, length }) => ({ dtype: x.dtype, shape: x.shape.map((d, i) => (i === axis ? length : d)) }),
  emit: ({ x, start }, { axis, length }) => {
    const from = node("Reshape", [start, int64s([1])]);
    return node("Slice", [x, from, node("Add", [from, dims([length])]), int64s([axis])]);
  },
  grad: ({ x, start }, dy, { axis, length }) => ({ x: dynamicPad(dy, start, axis, length, x.shape[axis]!) }),
});

/** `length` elements along an axis from `start`, an int64 scalar that the graph computes or is fed. The caller keeps it in bounds. */
export function dynamicSlice(x: Tensor, axis: number, start: Tensor, length: Dim): Tensor {
  if (start.dtype !== "int64" || !dimsEqual(sizeOf(start.shape), 1))
    throw shapeError("DynamicSlice", { x, start }, "start must be one int64 element");
  return dynamicSliceOp({ x, start }, { axis: normalizeAxis(axis, x.rank, "DynamicSlice", { x, start }), length });
}

const dynamicPadOp = defineOp<{ x: Tensor; start: Tensor }, { axis: number; length: Dim; size: Dim }>({
  name: "DynamicPad",
  type: ({ x }, { axis, size }) => ({ dtype: x.dtype, shape: x.shape.map((d, i) => (i === axis ? size : d)) }),
  emit: ({ x, start }, { axis, length, size }, { inputs }) => {
    const rank = inputs.x.rank;
    const before = node("Reshape", [start, int64s([1])]);
    const after = node("Sub", [dims([subDims(size, length)]), before]);
    const zeros = (count: number) => (count > 0 ? [int64s(Array(count).fill(0))] : []);
    return node("Pad", [x, node("Concat", [...zeros(axis), before, ...zeros(rank - 1), after, ...zeros(rank - 1 - axis)], { axis: 0 })]);
  },
  grad: ({ start }, dy, { axis, length }) => ({ x: dynamicSlice(dy, axis, start, length) }),
});

const dynamicPad = (x: Tensor, start: Tensor, axis: number, length: Dim, size: Dim): Tensor =>
  dynamicPadOp({ x, start }, { axis, length, size });

const padOp = defineOp<{ x: Tensor }, { axis: number; before: Dim; after: Dim; value: number }>({
  name: "Pad",
  type: ({ x }, { axis, before, after }) => ({
    dtype: x.dtype,
    shape: x.shape.map((d, i) => (i === axis ? addDims(addDims(d, before), after) : d)),
  }),
  emit: ({ x }, { axis, before, after, value }, { inputs }) => {
    const pads = [...inputs.x.shape.map((_, i) => (i === axis ? before : 0)), ...inputs.x.shape.map((_, i) => (i === axis ? after : 0))];
    return node("Pad", [x, dims(pads), value === 0 ? undefined : scalar(inputs.x.dtype, value)]);
  },
  grad: ({ x }, dy, { axis, before }) => ({ x: slice(dy, axis, before, addDims(before, x.shape[axis]!)) }),
});

/** Puts `before` and `after` elements of a constant (default 0) around one axis. */
export function pad(x: Tensor, axis: number, before: Dim, after: Dim, value = 0): Tensor {
  const at = normalizeAxis(axis, x.rank, "Pad", { x });
  if ([before, after].some((d) => typeof d === "number" && (d < 0 || !Number.isInteger(d))))
    throw shapeError("Pad", { x }, `cannot pad by ${before} and ${after}`);
  return dimsEqual(before, 0) && dimsEqual(after, 0) ? x : padOp({ x }, { axis: at, before, after, value });
}

// Operands are named by position: 0, 1, 2, …
const concatOp = defineOp<Record<string, Tensor>, { axis: number }>({
  name: "Concat",
  type: (parts, { axis }) => {
    const [first, ...rest] = Object.values(parts);
    for (const part of rest) {
      const fits =
        part.dtype === first!.dtype &&
        part.rank === first!.rank &&
        part.shape.every((d, i) => i === axis || dimsEqual(d, first!.shape[i]!));
      if (!fits) throw shapeError("Concat", parts, `the parts must agree in dtype and in every axis but ${axis}`);
    }
    const size = Object.values(parts).reduce<Dim>((total, part) => addDims(total, part.shape[axis]!), 0);
    return { dtype: first!.dtype, shape: first!.shape.map((d, i) => (i === axis ? size : d)) };
  },
  emit: (parts, { axis }) => node("Concat", Object.values(parts), { axis }),
  grad: ({ y: _y, outputs: _outputs, ...parts }, dy, { axis }) => {
    let start: Dim = 0;
    const gradients: Record<string, Tensor> = {};
    for (const [name, part] of Object.entries(parts as Record<string, Tensor>)) {
      const end: Dim = addDims(start, part.shape[axis]!);
      gradients[name] = slice(dy, axis, start, end);
      start = end;
    }
    return gradients;
  },
});

/** Joins tensors along an axis. */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  const [first] = parts;
  if (!first) throw shapeError("Concat", {}, "there is nothing to join");
  if (parts.length === 1) return first;
  return concatOp(Object.fromEntries(parts.map((part, i) => [`part${i}`, part])), {
    axis: normalizeAxis(axis, first.rank, "Concat", { first }),
  });
}

/** Joins tensors of one shape along a new axis. */
export const stack = (parts: readonly Tensor[], axis = 0): Tensor =>
  concat(
    parts.map((part) => unsqueeze(part, axis)),
    axis,
  );

/** Outputs that WebGPU's kernel of Split can write: every device lets a shader have eight buffers, and one is read. */
const splitAtMost = 7;

const splitOp = defineOp<{ x: Tensor }, { axis: number; sizes: readonly number[] }>({
  name: "Split",
  type: ({ x }, { axis, sizes }) => sizes.map((size) => ({ dtype: x.dtype, shape: x.shape.map((d, i) => (i === axis ? size : d)) })),
  emit: ({ x }, { axis, sizes }, { provider }) => {
    if (provider === "webgpu" && sizes.length > splitAtMost) {
      const ends = sizes.map((_, i) => sizes.slice(0, i + 1).reduce((a, b) => a + b, 0));
      return sizes.map((size, i) => node("Slice", [x, int64s([ends[i]! - size]), int64s([ends[i]!]), int64s([axis])]));
    }
    const first = node("Split", [x, int64s(sizes)], { axis }, { outputs: sizes.length });
    return sizes.map((_, i) => result(first, i));
  },
  grad: ({ outputs }, _dy, { axis }, dys) => ({
    x: concat(
      outputs.map((part, i) => dys[i] ?? zerosLike(part)),
      axis,
    ),
  }),
});

/** Cuts an axis into parts: a number of equal ones, or the given sizes. */
export function split(x: Tensor, parts: number | readonly number[], axis = -1): Tensor[] {
  const at = normalizeAxis(axis, x.rank, "Split", { x });
  const size = x.shape[at]!;
  if (typeof size !== "number") throw shapeError("Split", { x }, `axis ${axis} is symbolic; slice it instead`);
  const sizes = typeof parts === "number" ? Array<number>(parts).fill(size / parts) : parts;
  if (sizes.some((s) => !Number.isInteger(s) || s < 1) || sizes.reduce((a, b) => a + b, 0) !== size)
    throw shapeError(
      "Split",
      { x },
      `axis ${axis} of size ${size} cannot be cut into ${typeof parts === "number" ? `${parts} equal parts` : `[${parts}]`}`,
    );
  return sizes.length === 1 ? [x] : [...splitOp.all({ x }, { axis: at, sizes })];
}

const fillOp = defineOp<Record<never, never>, { shape: Shape; value: number; dtype: Tensor["dtype"] }>({
  name: "Fill",
  type: (_inputs, { shape, dtype }) => ({ dtype, shape }),
  emit: (_refs, { shape, value, dtype }) => {
    return node("Expand", [scalar(dtype, value), dims(shape)]);
  },
});

/** A tensor with one value everywhere. */
export const fill = (shape: Shape, value: number, dtype: Tensor["dtype"] = "float32"): Tensor => fillOp({}, { shape, value, dtype });
export const zerosLike = (x: Tensor): Tensor => fill(x.shape, 0, x.dtype);
export const onesLike = (x: Tensor): Tensor => fill(x.shape, 1, x.dtype);

const rangeOp = defineOp<Record<never, never>, { length: Dim; start: Dim }>({
  name: "Range",
  type: (_inputs, { length }) => ({ dtype: "int64", shape: [length] }),
  emit: (_refs, { length, start }) => {
    const scalarOf = (d: Dim) => node("Reshape", [dims([d]), int64s([])]);
    return node("Range", [scalarOf(start), scalarOf(addDims(start, length)), node("Reshape", [int64s([1]), int64s([])])]);
  },
});

/** `start, start+1, …` as int64. */
export const range = (length: Dim, start: Dim = 0): Tensor => rangeOp({}, { length, start });

const flipOp = defineOp<{ x: Tensor }, { axis: number }>({
  name: "Flip",
  type: ({ x }) => ({ dtype: x.dtype, shape: x.shape }),
  emit: ({ x }, { axis }) => node("Slice", [x, int64s([-1]), int64s([-(2 ** 31)]), int64s([axis]), int64s([-1])]),
  grad: (_values, dy, { axis }) => ({ x: flip(dy, axis) }),
});

/** Reverses an axis. */
export const flip = (x: Tensor, axis: number): Tensor => flipOp({ x }, { axis: normalizeAxis(axis, x.rank, "Flip", { x }) });
