import {
  type Dim,
  type DType,
  dimsEqual,
  elementCount,
  type Node,
  shapesEqual,
  type Tensor,
  type Variable,
  variableOp,
} from "../graph/index.ts";
import { beforeCast, computeDtype, narrowProduct } from "./compute-dtype.ts";
import { defineOp, shapeError } from "./define.ts";
import { broadcastShapes, cast, mul } from "./elementwise.ts";
import { contrib, float, int64s, node, type Ref, scalar } from "./emission.ts";
import { reshape } from "./movement.ts";
import { sumTo } from "./reduce.ts";

export interface MatmulOptions {
  /** Use the transpose of the last two axes of `a`. */
  transposeA?: boolean;
  transposeB?: boolean;
  /** A factor on the product. Default 1. */
  alpha?: number;
}

type Attrs = Required<MatmulOptions>;

const matrix = (t: Tensor, transposed: boolean): [Dim, Dim] =>
  transposed ? [t.shape.at(-1)!, t.shape.at(-2)!] : [t.shape.at(-2)!, t.shape.at(-1)!];

const matmulOp = defineOp<{ a: Tensor; b: Tensor }, Attrs>({
  name: "MatMul",
  type: ({ a, b }, { transposeA, transposeB }) => {
    if (a.rank < 2 || b.rank < 2) throw shapeError("matmul", { a, b }, "both operands need at least two axes");
    if (a.dtype !== b.dtype) throw shapeError("matmul", { a, b }, "the operands must have one dtype; cast one of them");
    const [rows, innerA] = matrix(a, transposeA);
    const [innerB, columns] = matrix(b, transposeB);
    const sides = `${transposeA ? "aᵀ" : "a"} × ${transposeB ? "bᵀ" : "b"}`;
    if (!dimsEqual(innerA, innerB)) throw shapeError("matmul", { a, b }, `the inner sizes of ${sides} differ: ${innerA} and ${innerB}`);
    const batch = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2));
    if (!batch) throw shapeError("matmul", { a, b }, `the leading axes of ${sides} do not broadcast`);
    return { dtype: a.dtype, shape: [...batch, rows, columns] };
  },
  emit: ({ a, b }, { transposeA, transposeB, alpha }, { inputs, provider }) => {
    if (!transposeA && !transposeB && alpha === 1) return node("MatMul", [a, b]);
    // FusedMatMul runs at the matmul peak without a Transpose node; the WebGPU provider lacks it, and so do other types on the CPU.
    if (provider !== "webgpu" && provider !== "onnx" && inputs.a.dtype === "float32") {
      const fused = (right: Ref) =>
        node("FusedMatMul", [a, right], { transA: transposeA ? 1 : 0, transB: transposeB ? 1 : 0, alpha: float(alpha) }, contrib);
      const parts = transposeB ? partsToWiden(inputs.b, b) : [];
      return parts.length > 1 ? node("Concat", parts.map(fused), { axis: -1 }) : fused(b);
    }
    const product = node("MatMul", [transposeA ? swapped(a, inputs.a.rank) : a, transposeB ? swapped(b, inputs.b.rank) : b]);
    return alpha === 1 ? product : node("Mul", [product, scalar(inputs.a.dtype, alpha)]);
  },
  grad: ({ a, b }, dy, attrs) => {
    const { transposeA, transposeB, alpha } = attrs;
    // (diag(s)·D)·Bᵀ = diag(s)·(D·Bᵀ): a factor per row is cheaper on the narrower side, as behind a vocabulary.
    const scaled = !transposeA && b.rank === 2 ? rowScaled(dy) : undefined;
    if (scaled && isNarrower(a.shape.at(-1)!, dy.shape.at(-1)!)) {
      return {
        a: mul(matmul(scaled.rows, b, { transposeB: !transposeB, alpha }), scaled.factor),
        b: weightGradient(mul(a, scaled.factor), b, scaled.rows, attrs),
      };
    }
    return {
      a: sumTo(
        transposeA ? matmul(b, dy, { transposeA: transposeB, transposeB: true, alpha }) : matmul(dy, b, { transposeB: !transposeB, alpha }),
        a.shape,
      ),
      b: weightGradient(a, b, dy, attrs),
    };
  },
});

/** Elements of a weight that are widened at a time. */
const widenedAtOnce = 1 << 23;

/** The rows of a weight that is held in 16 bits, in parts: of one as large as a vocabulary, only a part is then ever there in float32. */
function partsToWiden(weight: Tensor, ref: Ref): Ref[] {
  const { op, attrs } = weight.node;
  const variable = op === variableOp ? (attrs.variable as Variable) : undefined;
  if (!variable?.frozen || !variable.constantDtype || variable.shape.length !== 2) return [ref];
  const [rows, width] = variable.shape as [number, number];
  const count = Math.ceil((rows * width) / widenedAtOnce);
  const at = (i: number) => int64s([Math.round((rows * i) / count)]);
  return Array.from({ length: count }, (_, i) => node("Slice", [ref, at(i), at(i + 1), int64s([0])]));
}

/** `x` as rows · factor, when it was computed so with one factor per row. */
function rowScaled(x: Tensor): { rows: Tensor; factor: Tensor } | undefined {
  const { a: rows, b: factor } = x.node.inputs;
  const isProduct = x.node.op.name === "Mul" && rows && factor && shapesEqual(rows.shape, x.shape);
  return isProduct && factor.rank === x.rank && factor.shape.at(-1) === 1 && x.shape.at(-1) !== 1 ? { rows, factor } : undefined;
}

const isNarrower = (a: Dim, b: Dim): boolean => typeof a === "number" && typeof b === "number" && a < b;

/** One large product instead of a batch of small ones when `b` is shared by the whole batch, as a weight is. */
function weightGradient(a: Tensor, b: Tensor, dy: Tensor, { transposeA, transposeB, alpha }: Attrs): Tensor {
  if (b.rank === 2 && a.rank > 2 && !transposeA) {
    const rows = reshape(a, [-1, a.shape.at(-1)!]);
    const dRows = reshape(dy, [-1, dy.shape.at(-1)!]);
    return transposeB ? matmul(dRows, rows, { transposeA: true, alpha }) : matmul(rows, dRows, { transposeA: true, alpha });
  }
  return sumTo(
    transposeB ? matmul(dy, a, { transposeA: true, transposeB: transposeA, alpha }) : matmul(a, dy, { transposeA: !transposeA, alpha }),
    b.shape,
  );
}

function swapped(x: Ref, rank: number): Ref {
  return node("Transpose", [x], {
    perm: Array.from({ length: rank }, (_, i) => (i === rank - 1 ? rank - 2 : i === rank - 2 ? rank - 1 : i)),
  });
}

/** Matrix product over the last two axes; leading axes broadcast. Computed in another type within {@link computingIn}. */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const attrs = { transposeA: options.transposeA ?? false, transposeB: options.transposeB ?? false, alpha: options.alpha ?? 1 };
  return narrowProduct(a, b, (a, b) => matmulOp({ a, b }, attrs));
}

/** `x` [..., in] times a weight kept as [out, in], PyTorch's convention → [..., out]. */
export const linear = (x: Tensor, weight: Tensor): Tensor => matmul(x, weight, { transposeB: true });

/** `x` and `weight`, where `y` is {@link linear} of them; before they were rounded, where it is computed in 16 bits. */
export function linearOf(y: Tensor): { x: Tensor; weight: Tensor } | undefined {
  const narrow = beforeCast(y);
  if (narrow !== y && narrow.dtype === computeDtype()) {
    const of = linearOf(narrow);
    return of && { x: widened(of.x, y.dtype), weight: widened(of.weight, y.dtype) };
  }
  const product = productOf(y.node);
  return product?.transposed && product.alpha === 1 && product.weight.rank === 2 ? product : undefined;
}

const widened = (x: Tensor, dtype: DType): Tensor => (beforeCast(x).dtype === dtype ? beforeCast(x) : cast(x, dtype));

/** The operands of a matrix product whose first factor is not transposed. */
export function productOf({ op, attrs, inputs }: Node): { x: Tensor; weight: Tensor; transposed: boolean; alpha: number } | undefined {
  if (op !== matmulOp || attrs.transposeA) return undefined;
  return { x: inputs.a!, weight: inputs.b!, transposed: attrs.transposeB as boolean, alpha: attrs.alpha as number };
}

/** Floating-point operations of a node that is a matrix product (two per multiply–add), when its sizes are numbers. */
export function matmulFlops(node: Node): number | undefined {
  let inner: Dim | undefined;
  if (node.op === matmulOp) inner = node.inputs.a!.shape.at(node.attrs.transposeA ? -2 : -1);
  else if (node.op.name === "SoftmaxMatMul") inner = node.inputs.v!.shape.at(-2);
  else if (node.op.name === "Int8Linear" || node.op.name === "TrainedInt8Product" || node.op.name === "BlockLinear")
    inner = node.inputs.x!.shape.at(-1);
  if (inner === undefined) return undefined;
  const sizes = [...node.outputs[0]!.shape, inner];
  return sizes.every((d): d is number => typeof d === "number") ? 2 * elementCount(sizes) : undefined;
}
