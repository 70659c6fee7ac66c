import { isFloat, type Tensor } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { int64s, node, type Ref, scalar } from "./emission.ts";

/** A one of type `dtype`, [], that is known only when the graph runs, and not before `x`: no optimiser sees through it. */
function oneAfter(x: Ref, dtype: Tensor["dtype"]): Ref {
  const first = node("Gather", [node("Reshape", [x, int64s([-1])]), scalar("int64", 0)]);
  const undefinedness = node("Cast", [node("IsNaN", [first])], { to: { dtype: "int32" } });
  // In whole numbers, because an undefined float times zero is not zero.
  return node("Cast", [node("Add", [node("Mul", [undefinedness, scalar("int32", 0)]), scalar("int32", 1)])], { to: { dtype } });
}

const afterOp = defineOp<{ x: Tensor; awaited: Tensor }>({
  name: "After",
  type: ({ x, awaited }) => {
    if (!isFloat(awaited.dtype)) throw shapeError("After", { x, awaited }, "what is awaited must be a float");
    if (x.dtype === "bool") throw shapeError("After", { x, awaited }, "what waits must be a number");
    return { dtype: x.dtype, shape: x.shape };
  },
  // Exact for every value. A Reshape to a shape that must be waited for would save the pass over x, but ONNX Runtime joins it with the next Reshape.
  emit: ({ x, awaited }, _attrs, { inputs }) => node("Mul", [x, oneAfter(awaited, inputs.x.dtype)]),
  grad: (_values, dy) => ({ x: dy }),
});

/**
 * `x`, but not before `awaited`, a float of at least one element, has been computed. The values are the same; what reads the result can be neither
 * computed earlier nor taken for what is computed of `x` itself.
 */
export const after = (x: Tensor, awaited: Tensor): Tensor => afterOp({ x, awaited }, {});
