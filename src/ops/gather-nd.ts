import { formatShape, type Shape, shapesEqual, type Tensor } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { node } from "./emission.ts";
import { zerosLike } from "./movement.ts";

type Reduction = "none" | "add";

/** The shape of what a list of index tuples [..., depth] picks from `x`, or undefined where they do not fit. */
function picked(x: Tensor, indices: Tensor, batch: number): Shape | undefined {
  const depth = indices.shape.at(-1);
  const fits =
    indices.dtype === "int64" &&
    typeof depth === "number" &&
    batch < indices.rank &&
    batch + depth <= x.rank &&
    shapesEqual(x.shape.slice(0, batch), indices.shape.slice(0, batch));
  return fits ? [...indices.shape.slice(0, -1), ...x.shape.slice(batch + depth)] : undefined;
}

const gatherNdOp = defineOp<{ x: Tensor; indices: Tensor }, { batch: number }>({
  name: "GatherND",
  type: ({ x, indices }, { batch }) => {
    const shape = picked(x, indices, batch);
    if (!shape) throw shapeError("GatherND", { x, indices }, "indices must be int64 tuples [..., depth] into the leading axes of x");
    return { dtype: x.dtype, shape };
  },
  emit: ({ x, indices }, { batch }) => node("GatherND", [x, indices], { batch_dims: batch }),
  grad: ({ x, indices }, dy, { batch }) => {
    if (batch > 0) throw shapeError("GatherND", { x, indices }, "with leading batch axes it has no gradient for x");
    return { x: scatterNd(zerosLike(x), indices, dy, "add") };
  },
});

/** The elements or slices of `x` at the index tuples `indices` [..., depth] → [..., rest of x]. `batch` leading axes belong to both. */
export const gatherNd = (x: Tensor, indices: Tensor, batch = 0): Tensor => gatherNdOp({ x, indices }, { batch });

const scatterNdOp = defineOp<{ x: Tensor; indices: Tensor; updates: Tensor }, { reduction: Reduction }>({
  name: "ScatterND",
  type: ({ x, indices, updates }) => {
    const shape = picked(x, indices, 0);
    if (!shape || !shapesEqual(shape, updates.shape) || updates.dtype !== x.dtype)
      throw shapeError(
        "ScatterND",
        { x, indices, updates },
        `indices must be int64 tuples into the leading axes of x, and updates ${x.dtype}${shape ? ` ${formatShape(shape)}` : ""}`,
      );
    return { dtype: x.dtype, shape: x.shape };
  },
  emit: ({ x, indices, updates }, { reduction }) => node("ScatterND", [x, indices, updates], { reduction }),
  grad: ({ indices, updates }, dy, { reduction }) => ({
    x: reduction === "add" ? dy : scatterNd(dy, indices, zerosLike(updates)),
    updates: gatherNd(dy, indices),
  }),
});

/** `x` with `updates` put (or added) at the index tuples `indices` [..., depth]. Without adding, no tuple may occur twice. */
export const scatterNd = (x: Tensor, indices: Tensor, updates: Tensor, reduction: Reduction = "none"): Tensor =>
  scatterNdOp({ x, indices, updates }, { reduction });
