/**
 * Products with frozen weights that stay quantised: no float copy of a weight outlives the operator that reads it. Gradients flow to `x` alone.
 *
 * - {@link int8Linear}: 8 bits, one scale per output; the product itself is computed in integers, after each row of `x` was rounded to 8 bits
 * - {@link blockLinear}: 4 bits, one scale per block of inputs; the product is computed in floats
 */
import { type Dim, dimsEqual, reachable, type Tensor, type Traced } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { cast, mul } from "./elementwise.ts";
import { contrib, int64s, node, type Ref } from "./emission.ts";
import { embedding } from "./indexing.ts";
import { int8ProductNodes } from "./int8-product.ts";
import { matmul } from "./matmul.ts";
import { unsqueeze } from "./movement.ts";

interface Int8Operands {
  x: Tensor;
  weight: Tensor;
  scale: Tensor | undefined;
  [name: string]: Tensor | undefined;
}

/** x [..., in] · weight [in, out] (or, transposed, [out, in]ᵀ), each column times its scale. */
const int8ProductOp = defineOp<Int8Operands, { transpose: boolean }>({
  name: "Int8Linear",
  type: ({ x, weight, scale }, { transpose }) => {
    const operands = { x, weight, scale };
    if (weight.dtype !== "int8" || weight.rank !== 2) throw shapeError("int8Linear", operands, "the weight must be int8 with two axes");
    if (x.rank < 2 || x.dtype !== "float32") throw shapeError("int8Linear", operands, "x must be float32 with at least two axes");
    const [inner, columns] = (transpose ? [...weight.shape].reverse() : weight.shape) as [Dim, Dim];
    if (!dimsEqual(x.shape.at(-1)!, inner))
      throw shapeError("int8Linear", operands, `x has ${x.shape.at(-1)} inputs and the weight ${inner}`);
    if (scale && (scale.rank !== 1 || !dimsEqual(scale.shape[0]!, columns)))
      throw shapeError("int8Linear", operands, `the scale needs one element for each of the ${columns} outputs`);
    return { dtype: "float32", shape: [...x.shape.slice(0, -1), columns] };
  },
  emit: ({ x, weight, scale }, { transpose }, { provider }) =>
    int8ProductNodes(x, transpose ? node("Transpose", [weight], { perm: [1, 0] }) : weight, scale, provider),
  // Rounding has slope one here (straight-through), and the gradient is rounded row by row in its turn: gradients differ in size between rows.
  grad: ({ weight, scale }, dy, { transpose }) => ({
    x: int8Product(scale ? mul(dy, scale) : dy, weight, undefined, !transpose),
  }),
});

const int8Product = (x: Tensor, weight: Tensor, scale: Tensor | undefined, transpose: boolean): Tensor =>
  int8ProductOp({ x, weight, scale }, { transpose });

/**
 * `x` [..., in] times an 8-bit weight → [..., out]. `weight` int8 [in, out], `scale` [out]: the weight stands for weight · scale.
 *
 * Each row of `x` is rounded to 255 levels of its own (so are the rows of the incoming gradient in the backward pass), and the product is computed
 * in integers, as in Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", without its separate outliers.
 * The weight lies as [in, out] because ONNX's integer product knows no transposes; the gradient transposes it anew in each run.
 */
export const int8Linear = (x: Tensor, weight: Tensor, scale: Tensor): Tensor => int8Product(x, weight, scale, false);

/** {@link int8Linear} with the rows of a table: `weight` int8 [out, in], `scale` [out]. For tables that {@link int8Lookup} reads too. */
export const int8TableProduct = (x: Tensor, weight: Tensor, scale: Tensor): Tensor => int8Product(x, weight, scale, true);

/** Rows of a table that is kept in 8 bits: int64 `ids` [...] → [..., width]. `weight` int8 [vocabulary, width], `scale` [vocabulary]. */
export const int8Lookup = (ids: Tensor, weight: Tensor, scale: Tensor): Tensor =>
  mul(cast(embedding(ids, weight), "float32"), unsqueeze(embedding(ids, scale), -1));

/** How 4 bits are read: as −8 … 7, or as the quantiles of a normal distribution that QLoRA calls NormalFloat. */
export type BlockCode = "int4" | "nf4";

/** What each of the 16 patterns stands for, before the scale of its block. */
export const blockLevels: Readonly<Record<BlockCode, readonly number[]>> = {
  int4: Array.from({ length: 16 }, (_, i) => i - 8),
  // Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", appendix E.
  nf4: [
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1,
  ],
};

/** Which half of a byte holds the earlier element: ONNX Runtime's MatMulNBits takes the lower one, its MatMulBnb4, as bitsandbytes, the upper one. */
export const lowFirst: Readonly<Record<BlockCode, boolean>> = { int4: true, nf4: false };

interface Blocks {
  packed: Tensor;
  scale: Tensor;
  [name: string]: Tensor | undefined;
}

/** [out, in] of a packed weight. */
function blockShape(name: string, operands: Blocks & { x?: Tensor }): [number, number] {
  const { packed, scale } = operands;
  if (packed.dtype !== "uint8" || packed.rank !== 3)
    throw shapeError(name, operands, "the packed weight must be uint8 [out, blocks, block/2]");
  const [out, blocks, half] = packed.shape as [number, number, number];
  if (scale.rank !== 2 || scale.shape[0] !== out || scale.shape[1] !== blocks)
    throw shapeError(name, operands, `the scale must be [${out}, ${blocks}], one element per block`);
  return [out, blocks * half * 2];
}

/** The two levels of every byte, [256, 2]. */
function levelsOfBytes(code: BlockCode): Ref {
  const levels = blockLevels[code];
  const data = Float32Array.from({ length: 512 }, (_, i) => levels[(i % 2 === 0) === lowFirst[code] ? (i >> 1) & 15 : i >> 5]!);
  return { kind: "literal", dtype: "float32", shape: [256, 2], data };
}

/** Packed → float32 [out, in], by a table of bytes: every provider computes it, and faster than ONNX Runtime's own 4-bit operators do. */
function unpacked(packed: Ref, scale: Ref, code: BlockCode, { packed: { shape } }: Blocks): Ref {
  const [out, blocks, half] = shape as [number, number, number];
  const values = node("Gather", [levelsOfBytes(code), node("Cast", [packed], { to: { dtype: "int32" } })], { axis: 0 });
  const scaled = node("Mul", [
    node("Reshape", [values, int64s([out, blocks, half * 2])]),
    node("Reshape", [scale, int64s([out, blocks, 1])]),
  ]);
  return node("Reshape", [scaled, int64s([out, blocks * half * 2])]);
}

const unpackOp = defineOp<Blocks, { code: BlockCode }>({
  name: "UnpackBlocks",
  type: (operands) => ({ dtype: "float32", shape: blockShape("unpackBlocks", operands) }),
  emit: ({ packed, scale }, { code }, { inputs }) => unpacked(packed!, scale!, code, inputs),
});

/** The float32 weight [out, in] that `packed` and `scale` stand for; see {@link blockLinear}. */
export const unpackBlocks = (packed: Tensor, scale: Tensor, code: BlockCode): Tensor => unpackOp({ packed, scale }, { code });

const blockLinearOp = defineOp<Blocks & { x: Tensor }, { code: BlockCode; exact: boolean }>({
  name: "BlockLinear",
  type: (operands) => {
    const { x } = operands;
    const [out, width] = blockShape("blockLinear", operands);
    if (x.rank < 2 || x.dtype !== "float32") throw shapeError("blockLinear", operands, "x must be float32 with at least two axes");
    if (x.shape.at(-1) !== width)
      throw shapeError("blockLinear", operands, `x has ${x.shape.at(-1)} inputs and the packed weight ${width}`);
    return { dtype: "float32", shape: [...x.shape.slice(0, -1), out] };
  },
  emit: ({ x, packed, scale }, { code, exact }, { inputs, provider }) => {
    const [out, blocks, half] = inputs.packed.shape as [number, number, number];
    const sizes = { K: blocks * half * 2, N: out, block_size: half * 2 };
    if (provider === "cpu" || provider === "wasm") {
      // Not the composition below: the backward pass has it, ONNX Runtime would compute both as one, and every float weight would live until then.
      if (code === "nf4") return node("MatMulBnb4", [x, packed, scale], { ...sizes, quant_type: 1 }, contrib);
      return node("MatMulNBits", [x, packed, scale], { ...sizes, bits: 4, accuracy_level: !exact && isOneRow(inputs.x) ? 4 : 0 }, contrib);
    }
    const weight = unpacked(packed, scale, code, inputs);
    return node("MatMul", [x, node("Transpose", [weight], { perm: [1, 0] })]);
  },
  grad: ({ packed, scale }, dy, { code }) => ({ x: matmul(dy, unpackBlocks(packed, scale, code)) }),
});

/**
 * `x` [..., in] times a 4-bit weight → [..., out]. `packed` uint8 [out, blocks, block/2], two inputs in a byte (see {@link lowFirst}); `scale`
 * [out, blocks]: each pattern stands for its level ({@link blockLevels}) times the scale of its block. Powers of two from 16 on can be blocks.
 * The product, and the gradient for `x`, are computed in floats from a weight that is unpacked for this one product. Rows of one token, as in decoding,
 * may be rounded to 8 bits for speed, unless the product is to be `exact`.
 */
export const blockLinear = (
  x: Tensor,
  packed: Tensor,
  scale: Tensor,
  code: BlockCode,
  { exact = false }: { exact?: boolean } = {},
): Tensor => blockLinearOp({ x, packed, scale }, { code, exact });

const isOneRow = (x: Tensor): boolean => x.shape.at(-2) === 1;

/**
 * Whether a program multiplies single rows by int4 weights, as decoding does: ONNX Runtime's kernel is tens of times slower there without the copy
 * that it packs the weights into, which is no larger than they are.
 */
export const needsPackedWeights = ({ graph, outputs }: Traced): boolean =>
  [...reachable([...Object.values(outputs), ...graph.updates.values()])].some(
    ({ op, inputs, attrs }) => op === blockLinearOp && attrs.code === "int4" && isOneRow(inputs.x!),
  );
