import { dimsEqual, divDims, type Tensor } from "../graph/index.ts";
import { defineOp, type Op, shapeError } from "./define.ts";
import { contrib, int64s, node, result } from "./emission.ts";

type RotaryInputs = { x: Tensor; cos: Tensor; sin: Tensor; positions: Tensor };

const rotaryOp: Op<RotaryInputs, { inverse: boolean }> = defineOp<RotaryInputs, { inverse: boolean }>({
  name: "Rotary",
  type: ({ x, cos, sin, positions }) => {
    const half = divDims(x.shape.at(-1) ?? 0, 2);
    const ok =
      x.rank === 4 &&
      half !== undefined &&
      cos.rank === 2 &&
      dimsEqual(cos.shape[1]!, half) &&
      sin.rank === 2 &&
      dimsEqual(sin.shape[1]!, half);
    if (!ok) throw shapeError("Rotary", { x, cos, sin }, "x must be [batch, heads, time, width] and the tables [positions, width/2]");
    if (cos.dtype !== x.dtype || sin.dtype !== x.dtype)
      throw shapeError("Rotary", { x, cos, sin }, "the tables must have the dtype of x; cast one of them");
    if (positions.dtype !== "int64" || positions.rank !== 2 || !dimsEqual(positions.shape[1]!, x.shape[2]!))
      throw shapeError("Rotary", { x, positions }, "positions must be int64 [batch, time]");
    return { dtype: x.dtype, shape: x.shape };
  },
  emit: ({ x, cos, sin, positions }, { inverse }, { provider }) => {
    const table = inverse ? node("Neg", [sin]) : sin;
    if (provider === "cpu" || provider === "wasm") return node("RotaryEmbedding", [x, positions, cos, table], { interleaved: 0 }, contrib);
    const at = (t: typeof x) => node("Unsqueeze", [node("Gather", [t, positions], { axis: 0 }), int64s([1])]);
    const [c, s] = [at(cos), at(table)];
    const first = node("Split", [x], { axis: -1, num_outputs: 2 }, { outputs: 2 });
    const second = result(first, 1);
    return node(
      "Concat",
      [node("Sub", [node("Mul", [first, c]), node("Mul", [second, s])]), node("Add", [node("Mul", [second, c]), node("Mul", [first, s])])],
      { axis: -1 },
    );
  },
  // A rotation is orthogonal: its transpose is the rotation by the negative angle.
  grad: ({ cos, sin, positions }, dy, { inverse }) => ({ x: rotaryOp({ x: dy, cos, sin, positions }, { inverse: !inverse }) }),
});

/**
 * Rotary position embedding in the half-split layout of Llama checkpoints (Su et al., "RoFormer").
 * `x` [batch, heads, time, width]; `cos` and `sin` [positions, width/2]; `positions` int64 [batch, time].
 */
export const rotary = (x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor): Tensor =>
  rotaryOp({ x, cos, sin, positions }, { inverse: false });
