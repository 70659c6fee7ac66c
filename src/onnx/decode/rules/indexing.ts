import type { Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import type { NodeContext, Rules } from "../context.ts";
import { known } from "../context.ts";

/** Indices count from the end where they are negative, as Gather's do; where they are known, or cannot be negative, nothing is computed for that. */
function places(n: NodeContext, index: number, x: Tensor, axis: number): Tensor {
  const indices = n.tensor(index);
  const values = known(n.value(index).content);
  if (!values) return indices;
  if (values.every((v) => v >= 0)) return indices;
  return ops.where(ops.less(indices, 0), ops.add(indices, ops.cast(ops.dimension(x.shape[axis]!), indices.dtype)), indices);
}

function gather(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const axis = n.axis(n.int("axis", 0), x.rank);
  const row = n.number(1);
  // One row at a known place is a slice, whose gradient is cheaper than that of a lookup.
  const size = x.shape[axis]!;
  if (row !== undefined && n.value(1).rank === 0 && (row < 0 || typeof size !== "number" || row < size)) {
    const end = row === -1 ? undefined : row + 1;
    return ops.reshape(ops.slice(x, axis, row, end), [...x.shape.slice(0, axis), ...x.shape.slice(axis + 1)]);
  }
  return ops.gather(x, places(n, 1, x, axis), axis);
}

function gatherElements(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const axis = n.axis(n.int("axis", 0), x.rank);
  return ops.gatherElements(x, n.tensor(1), axis);
}

function scatterElements(n: NodeContext): Tensor {
  const [x, indices, updates] = [n.tensor(0), n.tensor(1), n.tensor(2)];
  const axis = n.axis(n.int("axis", 0), x.rank);
  const reduction = n.string("reduction", "none");
  if (reduction === "add") return ops.scatterElementsAdd(x, indices, updates, axis);
  if (reduction !== "none") throw n.fail(`the reduction "${reduction}" is not supported, only "none" and "add"`);
  // What is overwritten is taken away first.
  return ops.scatterElementsAdd(x, indices, ops.sub(updates, ops.gatherElements(x, indices, axis)), axis);
}

function scatterNd(n: NodeContext): Tensor {
  const reduction = n.string("reduction", "none");
  if (reduction !== "none" && reduction !== "add") throw n.fail(`the reduction "${reduction}" is not supported, only "none" and "add"`);
  return ops.scatterNd(n.tensor(0), ops.cast(n.tensor(1), "int64"), n.tensor(2), reduction);
}

function oneHot(n: NodeContext): Tensor {
  const [depth] = n.numbers(1, "depth");
  const [off, on] = n.numbers(2, "values");
  if (n.int("axis", -1) !== -1) throw n.fail("only the last axis can hold the classes");
  const { dtype } = n.value(2);
  const hot = ops.oneHot(n.tensor(0), depth!, dtype);
  return ops.add(ops.mul(hot, on! - off!), off!);
}

/** Of a vector of one value that is not zero: all places. The number of places in any other tensor is known only when the graph runs. */
function nonZero(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const { op, attrs } = x.node;
  if (x.rank !== 1 || op.name !== "Fill" || attrs.value === 0)
    throw n.fail("how many elements are not zero is known only when the graph runs", "onnx-dynamic-shape");
  return ops.reshape(ops.range(x.shape[0]!), [1, x.shape[0]!]);
}

export const indexing: Rules = {
  Gather: gather,
  GatherElements: gatherElements,
  GatherND: (n) => ops.gatherNd(n.tensor(0), ops.cast(n.tensor(1), "int64"), n.int("batch_dims", 0)),
  ScatterElements: scatterElements,
  Scatter: scatterElements,
  ScatterND: scatterNd,
  OneHot: oneHot,
  NonZero: nonZero,
};
