import { type Dim, sizeOf, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import { agree, agreeToBroadcast } from "../agreement.ts";
import type { NodeContext, Rules } from "../context.ts";

/** Asks for equal inner sizes and leading axes that broadcast. */
function agreeToMultiply(a: Tensor, b: Tensor, transposeA = false, transposeB = false): void {
  agree(a.shape.at(transposeA ? -2 : -1)!, b.shape.at(transposeB ? -1 : -2)!);
  agreeToBroadcast(a.shape.slice(0, -2), b.shape.slice(0, -2));
}

/** As NumPy's: a vector counts as one row on the left and one column on the right, and that axis goes again. */
export function product(a: Tensor, b: Tensor): Tensor {
  const left = a.rank === 1 ? ops.unsqueeze(a, 0) : a;
  const right = b.rank === 1 ? ops.unsqueeze(b, 1) : b;
  agreeToMultiply(left, right);
  let y = ops.matmul(left, right);
  if (b.rank === 1) y = ops.reshape(y, y.shape.slice(0, -1));
  if (a.rank === 1) y = ops.reshape(y, [...y.shape.slice(0, b.rank === 1 ? -1 : -2), ...(b.rank === 1 ? [] : y.shape.slice(-1))]);
  return y;
}

function gemm(n: NodeContext): Tensor {
  const [a, b] = [n.tensor(0), n.tensor(1)];
  const [transposeA, transposeB] = [n.int("transA", 0) === 1, n.int("transB", 0) === 1];
  agreeToMultiply(a, b, transposeA, transposeB);
  const y = ops.matmul(a, b, { transposeA, transposeB, alpha: n.float("alpha", 1) });
  const c = n.optional(2);
  return c ? ops.add(y, ops.mul(c, n.float("beta", 1))) : y;
}

function fusedMatMul(n: NodeContext): Tensor {
  if (n.int("transBatchA", 0) || n.int("transBatchB", 0))
    throw n.fail("transposed batch axes (transBatchA, transBatchB) are not supported");
  const [a, b] = [n.tensor(0), n.tensor(1)];
  const [transposeA, transposeB] = [n.int("transA", 0) === 1, n.int("transB", 0) === 1];
  agreeToMultiply(a, b, transposeA, transposeB);
  return ops.matmul(a, b, { transposeA, transposeB, alpha: n.float("alpha", 1) });
}

/** Axes of two operands and a result, one letter each: "bhid,bhjd->bhij". */
function einsum(n: NodeContext): Tensor {
  const equation = n.string("equation", "").replaceAll(" ", "");
  const [left = "", right] = equation.split("->");
  const terms = left.split(",");
  if (right === undefined || !/^[A-Za-z,]*$/.test(left) || terms.length !== n.inputs.length || terms.length > 2)
    throw n.fail(`the equation "${equation}" is not supported: one or two operands with a letter for each axis, and a result`);
  const sizes = new Map<string, Dim>();
  const operands = terms.map((letters, i) => {
    const x = n.tensor(i);
    if (letters.length !== x.rank || new Set(letters).size !== letters.length)
      throw n.fail(`"${letters}" in the equation "${equation}" does not name the axes of a tensor of rank ${x.rank}`);
    for (const [axis, letter] of [...letters].entries()) {
      const size = sizes.get(letter);
      if (size !== undefined) agree(size, x.shape[axis]!);
      else sizes.set(letter, x.shape[axis]!);
    }
    return { x, letters };
  });
  const size = (letters: string) => sizeOf([...letters].map((l) => sizes.get(l)!));
  const arranged = ({ x, letters }: { x: Tensor; letters: string }, order: string): Tensor => {
    // What neither the result nor the other operand has is summed.
    const summed = [...letters].flatMap((l, axis) => (order.includes(l) ? [] : [axis]));
    const kept = [...letters].filter((l) => order.includes(l)).join("");
    const y = ops.sum(x, summed);
    return kept.length < 2
      ? y
      : ops.transpose(
          y,
          [...order].map((l) => kept.indexOf(l)),
        );
  };
  const [a, b] = operands;
  if (!b) return arranged(a!, right);
  const inA = new Set(a!.letters);
  const inB = new Set(b.letters);
  const both = [...inA].filter((l) => inB.has(l));
  const batch = both.filter((l) => right.includes(l)).join("");
  const inner = both.filter((l) => !right.includes(l)).join("");
  const rows = [...right].filter((l) => inA.has(l) && !inB.has(l)).join("");
  const columns = [...right].filter((l) => inB.has(l) && !inA.has(l)).join("");
  const x = ops.reshape(arranged(a!, batch + rows + inner), [...[...batch].map((l) => sizes.get(l)!), size(rows), size(inner)]);
  const y = ops.reshape(arranged(b, batch + inner + columns), [...[...batch].map((l) => sizes.get(l)!), size(inner), size(columns)]);
  const result = ops.reshape(
    ops.matmul(x, y),
    [...(batch + rows + columns)].map((l) => sizes.get(l)!),
  );
  return arranged({ x: result, letters: batch + rows + columns }, right);
}

export const matmul: Rules = {
  MatMul: (n) => product(n.tensor(0), n.tensor(1)),
  Gemm: gemm,
  Einsum: einsum,
  "com.microsoft.FusedMatMul": fusedMatMul,
  "com.microsoft.FusedGemm": (n) => {
    const y = gemm(n);
    const activation = n.string("activation", "");
    const known: Record<string, (x: Tensor) => Tensor> = { Relu: ops.relu, Tanh: ops.tanh, Sigmoid: ops.sigmoid };
    const f = known[activation];
    if (!f) throw n.fail(`the activation "${activation}" is not supported`);
    return f(y);
  },
  "com.microsoft.TransposeMatMul": fusedMatMul,
};
