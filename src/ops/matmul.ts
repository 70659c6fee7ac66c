import { type Dim, dimsEqual, elementCount, type Node, type Tensor } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { broadcastShapes } from "./elementwise.ts";
import { contrib, float, node, type Ref, scalar } from "./emission.ts";
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
    if (provider !== "webgpu" && provider !== "onnx" && inputs.a.dtype === "float32")
      return node("FusedMatMul", [a, b], { transA: transposeA ? 1 : 0, transB: transposeB ? 1 : 0, alpha: float(alpha) }, contrib);
    const product = node("MatMul", [transposeA ? swapped(a, inputs.a.rank) : a, transposeB ? swapped(b, inputs.b.rank) : b]);
    return alpha === 1 ? product : node("Mul", [product, scalar(inputs.a.dtype, alpha)]);
  },
  grad: ({ a, b }, dy, { transposeA, transposeB, alpha }) => ({
    a: sumTo(
      transposeA ? matmul(b, dy, { transposeA: transposeB, transposeB: true, alpha }) : matmul(dy, b, { transposeB: !transposeB, alpha }),
      a.shape,
    ),
    b: weightGradient(a, b, dy, { transposeA, transposeB, alpha }),
  }),
});

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

/** Matrix product over the last two axes; leading axes broadcast. */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  return matmulOp(
    { a, b },
    { transposeA: options.transposeA ?? false, transposeB: options.transposeB ?? false, alpha: options.alpha ?? 1 },
  );
}

/** `x` [..., in] times a weight kept as [out, in], PyTorch's convention → [..., out]. */
export const linear = (x: Tensor, weight: Tensor): Tensor => matmul(x, weight, { transposeB: true });

/** Floating-point operations of a node that is a matrix product (two per multiply–add), when its sizes are numbers. */
export function matmulFlops(node: Node): number | undefined {
  let inner: Dim | undefined;
  if (node.op === matmulOp) inner = node.inputs.a!.shape.at(node.attrs.transposeA ? -2 : -1);
  else if (node.op.name === "SoftmaxMatMul") inner = node.inputs.v!.shape.at(-2);
  if (inner === undefined) return undefined;
  const sizes = [...node.outputs[0]!.shape, inner];
  return sizes.every((d): d is number => typeof d === "number") ? 2 * elementCount(sizes) : undefined;
}
