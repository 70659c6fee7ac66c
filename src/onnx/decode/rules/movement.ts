import { addDims, type Dim, divDims, formatShape, mulDims, sizeOf, subDims, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import { agree, agreeToBroadcast } from "../agreement.ts";
import type { NodeContext, Result, Rules } from "../context.ts";
import { compareDims } from "../fold.ts";
import { content, maxContent, scalarContent, Value, vectorContent } from "../value.ts";

function reshape(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const wanted = n.ints("shape") ?? n.dims(1, "shape");
  const keepsZeros = n.int("allowzero", 0) === 1;
  const full = wanted.map((d, i) => (d === 0 && !keepsZeros ? (x.shape[i] ?? 0) : d));
  const unknown = full.indexOf(-1);
  if (unknown < 0) return ops.reshape(x, full);
  const rest = divDims(sizeOf(x.shape), sizeOf(full.filter((d) => d !== -1)));
  if (rest === undefined)
    throw n.fail(`the ${sizeOf(x.shape)} elements of ${formatShape(x.shape)} cannot be told to fill ${formatShape(full)}`);
  return ops.reshape(
    x,
    full.map((d, i) => (i === unknown ? rest : d)),
  );
}

function flatten(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const given = n.int("axis", 1);
  const axis = given < 0 ? given + x.rank : given;
  return ops.reshape(x, [sizeOf(x.shape.slice(0, axis)), sizeOf(x.shape.slice(axis))]);
}

function unsqueeze(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const axes = n.axes(1) ?? [];
  const rank = x.rank + axes.length;
  const at = new Set(axes.map((a) => n.axis(a, rank)));
  const rest = [...x.shape];
  return ops.reshape(
    x,
    Array.from({ length: rank }, (_, i): Dim => (at.has(i) ? 1 : (rest.shift() ?? 1))),
  );
}

function squeeze(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const axes = n.axes(1)?.map((a) => n.axis(a, x.rank));
  for (const axis of axes ?? []) agree(x.shape[axis]!, 1);
  return ops.reshape(
    x,
    x.shape.filter((d, i) => (axes ? !axes.includes(i) : d !== 1)),
  );
}

function transpose(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const order = n.ints("perm") ?? x.shape.map((_, i) => x.rank - 1 - i);
  return x.rank < 2 ? x : ops.transpose(x, order);
}

function expand(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const wanted = n.dims(1, "shape");
  agreeToBroadcast(x.shape, wanted);
  const shape = ops.broadcastShapes(x.shape, wanted);
  if (!shape) throw n.fail(`${formatShape(x.shape)} does not stretch to ${formatShape(wanted)}`);
  return ops.expand(x, shape);
}

function tile(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const repeats = n.dims(1, "repeats");
  if (repeats.length !== x.rank) throw n.fail(`[${repeats}] repeats do not fit a tensor of rank ${x.rank}`);
  const pairs = x.shape.flatMap((d): Dim[] => [1, d]);
  const stretched = x.shape.flatMap((d, i): Dim[] => [repeats[i]!, d]);
  return ops.reshape(
    ops.expand(ops.reshape(x, pairs), stretched),
    x.shape.map((d, i) => mulDims(d, repeats[i]!)),
  );
}

function concat(n: NodeContext): Tensor {
  const values = n.inputs.map((_, i) => n.value(i));
  const axis = n.axis(n.int("axis", n.opset < 4 ? 1 : Number.NaN), values[0]?.rank ?? 0);
  for (const value of values)
    for (const [i, d] of value.shape.entries()) if (i !== axis && values[0]!.shape[i] !== undefined) agree(values[0]!.shape[i]!, d);
  // An empty past adds nothing.
  const filled = values.filter((value) => value.shape[axis] !== 0);
  return ops.concat(
    (filled.length > 0 ? filled : values.slice(0, 1)).map((value) => value.tensor),
    axis,
  );
}

function split(n: NodeContext): readonly Tensor[] {
  const x = n.tensor(0);
  const axis = n.axis(n.int("axis", 0), x.rank);
  const size = x.shape[axis]!;
  const sizes = n.ints("split") ?? (n.inputs[1] ? n.dims(1, "sizes") : equalParts(n, size));
  if (sizes.every((s): s is number => typeof s === "number") && typeof size === "number") return ops.split(x, sizes, axis);
  let start: Dim = 0;
  return sizes.map((length) => {
    const end: Dim = addDims(start, length);
    const part = ops.slice(x, axis, start, end);
    start = end;
    return part;
  });
}

/** As many parts as the node has outputs; the last one may be smaller. */
function equalParts(n: NodeContext, size: Dim): readonly Dim[] {
  const count = n.int("num_outputs", n.node.outputs.length);
  if (count < 1 || count > n.node.outputs.length) throw n.fail(`it has ${n.node.outputs.length} outputs for ${count} parts`);
  const exact = divDims(size, count);
  if (exact !== undefined) return Array<Dim>(count).fill(exact);
  if (typeof size !== "number") throw n.fail(`an axis of ${size} cannot be told to fall into ${count} parts`, "onnx-dynamic-shape");
  const part = Math.ceil(size / count);
  return Array.from({ length: count }, (_, i) => Math.max(0, Math.min(part, size - i * part)));
}

/** The places of a slice along an axis, counted from its start and kept within it. */
function bound(n: NodeContext, size: Dim, given: Dim): Dim {
  const from = typeof given === "number" && given < 0 ? addDims(size, Math.max(given, -(2 ** 52))) : given;
  if (typeof given === "number" && given <= -(2 ** 31)) return 0;
  if (typeof given === "number" && given >= 2 ** 31 - 1) return size;
  if (typeof from === "number" && typeof size === "number") return Math.min(Math.max(from, 0), size);
  // A sum like total − new is known to be no longer than total; where nothing is known, the exporter traced it within bounds.
  const beyond = compareDims(from, size);
  if (beyond !== undefined && beyond >= 0) return size;
  if (typeof from === "number" && from < 0)
    throw n.fail(`its bound ${given} cannot be placed in an axis of size ${size}`, "onnx-dynamic-shape");
  return from;
}

function slice(n: NodeContext): Tensor {
  const list = (name: string, index: number) => n.ints(name) ?? (n.inputs[index] ? n.dims(index, name) : undefined);
  const [starts, ends] = [list("starts", 1), list("ends", 2)];
  if (!starts || !ends || starts.length !== ends.length) throw n.fail("its starts and ends do not pair");
  const axes = n.ints("axes") ?? (n.inputs[3] ? n.numbers(3, "axes") : starts.map((_, i) => i));
  const steps = n.inputs[4] ? n.numbers(4, "steps") : starts.map(() => 1);
  return axes.reduce((x, given, i) => sliceAxis(n, x, n.axis(given, x.rank), starts[i]!, ends[i]!, steps[i] ?? 1), n.tensor(0));
}

function sliceAxis(n: NodeContext, x: Tensor, axis: number, start: Dim, end: Dim, step: number): Tensor {
  const size = x.shape[axis]!;
  if (step > 0) {
    const [from, to] = [bound(n, size, start), bound(n, size, end)];
    const isEmpty = typeof from === "number" && typeof to === "number" && from >= to;
    return isEmpty ? ops.fill(x.shape.with(axis, 0), 0, x.dtype) : ops.slice(x, axis, from, to, step);
  }
  if (step === 0) throw n.fail("its step is 0");
  const whole = typeof start === "number" && (start === -1 || start >= 2 ** 31 - 1) && typeof end === "number" && end <= -(2 ** 31);
  if (step === -1 && whole) return ops.flip(x, axis);
  if (typeof size !== "number" || typeof start !== "number" || typeof end !== "number")
    throw n.fail("a slice that runs backwards needs bounds that are numbers", "onnx-dynamic-shape");
  const first = Math.min(Math.max(start < 0 ? start + size : start, 0), size - 1);
  const last = Math.min(Math.max(end < 0 ? end + size : end, -1), size - 1);
  const count = Math.max(0, Math.ceil((last - first) / step));
  if (count > maxContent) throw n.fail(`a slice of ${count} elements that runs backwards in steps is not supported`);
  const rows = Array.from({ length: count }, (_, i) => first + i * step);
  return ops.gather(x, Value.known(vectorContent(rows)).tensor, axis);
}

function pad(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const mode = n.string("mode", "constant");
  if (mode !== "constant") throw n.fail(`padding by "${mode}" is not supported, only by a constant`);
  const pads = n.ints("pads") ?? n.dims(1, "pads");
  const value = n.float("value") ?? (n.inputs[2] ? (n.number(2) ?? Number.NaN) : 0);
  if (Number.isNaN(value)) throw n.fail("the value to pad with must be a constant");
  const axes = n.inputs[3] ? n.numbers(3, "axes").map((a) => n.axis(a, x.rank)) : x.shape.map((_, i) => i);
  if (pads.length !== 2 * axes.length) throw n.fail(`${pads.length} pads do not fit ${axes.length} axes`);
  return axes.reduce((y, axis, i) => {
    const [before, after] = [pads[i]!, pads[i + axes.length]!];
    const cut = (d: Dim) => (typeof d === "number" && d < 0 ? -d : 0);
    const kept = cut(before) || cut(after) ? ops.slice(y, axis, cut(before), subDims(y.shape[axis]!, cut(after))) : y;
    return ops.pad(kept, axis, cut(before) ? 0 : before, cut(after) ? 0 : after, value);
  }, x);
}

function shape(n: NodeContext): Value {
  const dims = n.value(0).shape;
  const at = (d: number) => Math.min(Math.max(d < 0 ? d + dims.length : d, 0), dims.length);
  return Value.known(vectorContent(dims.slice(at(n.int("start", 0)), at(n.int("end", dims.length)))));
}

function constantOfShape(n: NodeContext): Tensor {
  const sizes = n.dims(0, "shape");
  const value = n.constant("value")?.content ?? content("float32", [1], [0]);
  return ops.fill(sizes, (value.values[0] ?? 0) as number, value.dtype);
}

function range(n: NodeContext): Tensor {
  const [[start], [limit], [delta]] = [n.dims(0, "start"), n.dims(1, "limit"), n.numbers(2, "step")];
  if (start === undefined || limit === undefined || !delta) throw n.fail("start, limit and a step that is not 0 must be scalars");
  const length = subDims(limit, start);
  const count = typeof length === "number" ? Math.max(0, Math.ceil(length / delta)) : divDims(length, delta);
  if (count === undefined)
    throw n.fail(`the number of elements from ${start} to ${limit} by ${delta} cannot be told`, "onnx-dynamic-shape");
  const { dtype } = n.value(0);
  if (delta === 1 && dtype === "int64") return ops.range(count, start);
  const steps = ops.mul(ops.cast(ops.range(count), dtype), delta);
  return ops.add(steps, typeof start === "number" ? start : ops.cast(ops.dimension(start), dtype));
}

function trilu(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const k = n.inputs[1] ? n.dims(1, "diagonal")[0]! : 0;
  const [rows, columns] = [x.shape.at(-2)!, x.shape.at(-1)!];
  // Element (i, j) is kept where j − i ≥ k (upper) or ≤ k (lower).
  const row = ops.unsqueeze(ops.range(rows, k), 1);
  const column = ops.unsqueeze(ops.range(columns), 0);
  const keeps = n.int("upper", 1) === 1 ? ops.greaterOrEqual(column, row) : ops.lessOrEqual(column, row);
  return ops.where(keeps, x, 0);
}

/** [batch, channels·block², rows, columns] → [batch, channels, rows·block, columns·block]. */
function depthToSpace(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const block = n.int("blocksize", 1);
  const [batch, channels, rows, columns] = x.shape as [Dim, Dim, Dim, Dim];
  const inner = divDims(channels, block * block);
  if (x.rank !== 4 || inner === undefined) throw n.fail(`${formatShape(x.shape)} does not fall into blocks of ${block}`);
  const byColumn = n.string("mode", "DCR") === "CRD";
  const split = ops.reshape(x, byColumn ? [batch, inner, block, block, rows, columns] : [batch, block, block, inner, rows, columns]);
  const order = byColumn ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2];
  return ops.reshape(ops.transpose(split, order), [batch, inner, mulDims(rows, block), mulDims(columns, block)]);
}

export const movement: Rules = {
  Reshape: reshape,
  Flatten: flatten,
  Unsqueeze: unsqueeze,
  Squeeze: squeeze,
  Transpose: transpose,
  Expand: expand,
  Tile: tile,
  Concat: concat,
  Split: split,
  Slice: slice,
  Pad: pad,
  Shape: shape,
  Size: (n): Result => Value.known(scalarContent("int64", sizeOf(n.value(0).shape))),
  ConstantOfShape: constantOfShape,
  Range: range,
  Trilu: trilu,
  DepthToSpace: depthToSpace,
};
