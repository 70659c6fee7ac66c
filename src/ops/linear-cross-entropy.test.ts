import { describe, expect, test } from "vitest";
import { checkOp, checkRejects, checkSymbolic, expectClose, host, ids, numbers, runOnce, sample, values } from "../../tests/ops/harness.ts";
import { providers } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { elementCount, reachable, type Tensor, trace } from "../graph/index.ts";
import * as ops from "./index.ts";

const hidden = values([3, 2], [1, -1, 0.5, 2, 0, 1]);
const weight = values([4, 2], [1, 0, 0, 1, -1, 1, 0.5, 0.25]);
/** −log softmax(logits)[target] by hand; `shape` makes the logits of hidden · weightᵀ. */
const nll = (row: number, target: number, shape = (z: number, _i: number) => z) => {
  const h = hidden.data.slice(2 * row, 2 * row + 2);
  const z = [0, 1, 2, 3].map((i) => shape(h[0]! * weight.data[2 * i]! + h[1]! * weight.data[2 * i + 1]!, i));
  return Math.log(z.reduce((t, v) => t + Math.exp(v), 0)) - z[target]!;
};
const targets = [3, 0, 1];
const bias = values([4], [0.5, -0.5, 0, 0.25]);
const cap = (z: number) => 1.5 * Math.tanh(z / 1.5);

/** Of Σ loss², with bias and cap: the squared lengths of its gradients for hidden, weight and bias. */
function squaredGradients(): number[] {
  const length = (xs: readonly number[]) => xs.reduce((t, v) => t + v * v, 0);
  const shape = (z: number, i: number) => cap(z + bias.data[i]!);
  const dLogits = targets.map((target, row) =>
    [0, 1, 2, 3].map((i) => {
      const p = Math.exp(-nll(row, i, shape));
      const raw = hidden.data[2 * row]! * weight.data[2 * i]! + hidden.data[2 * row + 1]! * weight.data[2 * i + 1]! + bias.data[i]!;
      return 2 * nll(row, target, shape) * (p - (i === target ? 1 : 0)) * (1 - Math.tanh(raw / 1.5) ** 2);
    }),
  );
  const column = (i: number) => dLogits.map((row) => row[i]!);
  const dot = (a: readonly number[], b: readonly number[]) => a.reduce((t, v, i) => t + v * b[i]!, 0);
  const along = (xs: readonly number[], k: number) => xs.filter((_, i) => i % 2 === k);
  return [
    length(dLogits.flatMap((row) => [0, 1].map((k) => dot(row, along(weight.data, k))))),
    length([0, 1, 2, 3].flatMap((i) => [0, 1].map((k) => dot(column(i), along(hidden.data, k))))),
    length([0, 1, 2, 3].map((i) => dot(column(i), [1, 1, 1]))),
  ];
}

describe("linearCrossEntropy", () => {
  for (const chunk of [1, 2, 3]) {
    checkOp(`losses, ${chunk} rows at a time`, {
      inputs: { hidden, weight, t: ids([3], 3, 0, 1) },
      fn: (i) => ops.linearCrossEntropy(i.hidden, i.weight, i.t, { chunk }).losses,
      expected: [nll(0, 3), nll(1, 0), nll(2, 1)],
      second: true,
    });
  }
  checkOp("ignored targets, weights", {
    inputs: { hidden, weight, t: ids([3], 3, -100, 1), w: values([3], [0.5, 2, 3]) },
    fn: (i) => {
      const { losses, weights } = ops.linearCrossEntropy(i.hidden, i.weight, i.t, { weights: i.w, chunk: 2 });
      return [losses, weights];
    },
    expected: [
      [0.5 * nll(0, 3), 0, 3 * nll(2, 1)],
      [0.5, 0, 3],
    ],
  });
  checkOp("bias and capped logits", {
    inputs: { hidden, weight, bias, t: ids([1, 3], 3, 0, 1) },
    fn: (i) => ops.linearCrossEntropy(ops.unsqueeze(i.hidden, 0), i.weight, i.t, { bias: i.bias, softcap: 1.5, chunk: 2 }).losses,
    expected: [0, 1, 2].map((row) => nll(row, targets[row]!, (z, i) => cap(z + bias.data[i]!))),
    second: true,
  });
  checkOp("the gradients' own gradients", {
    inputs: { hidden, weight, bias, t: ids([3], 3, 0, 1) },
    fn: (i) => {
      const { losses } = ops.linearCrossEntropy(i.hidden, i.weight, i.t, { bias: i.bias, softcap: 1.5, chunk: 2 });
      const [dHidden, dWeight, dBias] = grad(ops.sum(ops.mul(losses, losses)), [i.hidden, i.weight, i.bias]);
      return [ops.sumOfSquares(dHidden!), ops.sumOfSquares(dWeight!), ops.sumOfSquares(dBias!)];
    },
    expected: squaredGradients().map((v) => [v]),
  });
  checkSymbolic("linearCrossEntropy", {
    inputs: { hidden: ["b", "t", 3], weight: [5, 3], t: ["b", "t"] },
    sizes: [
      { b: 1, t: 4 },
      { b: 3, t: 3 },
      { b: 1, t: 1 },
    ],
    make: { t: (shape) => ids(shape, ...Array.from({ length: shape[0]! * shape[1]! }, (_, i) => (i % 4 === 3 ? -100 : i % 5))) },
    fn: (i) => ops.linearCrossEntropy(i.hidden, i.weight, i.t, { chunk: 4 }).losses,
  });
  checkRejects(
    "a weight of another width",
    { hidden: ["float32", 3, 4], w: ["float32", 5, 3], t: ["int64", 3] },
    (i) => ops.linearCrossEntropy(i.hidden, i.w, i.t),
    /LinearCrossEntropy.*\[vocabulary, width\]/,
  );
  checkRejects(
    "targets of another shape",
    { hidden: ["float32", 3, 4], w: ["float32", 5, 4], t: ["int64", 4] },
    (i) => ops.linearCrossEntropy(i.hidden, i.w, i.t),
    /without the last axis/,
  );
  checkRejects(
    "a chunk of no rows",
    { hidden: ["float32", 3, 4], w: ["float32", 5, 4], t: ["int64", 3] },
    (i) => ops.linearCrossEntropy(i.hidden, i.w, i.t, { chunk: 0 }),
    /at least one row/,
  );

  for (const provider of providers) {
    test(`equals the loss of whole logits, values and gradients, on ${provider}`, async () => {
      const [rows, width, vocabulary] = [37, 16, 1003];
      const inputs = {
        // Logits up to ±80, where e^logit is no float any more.
        h: sample([rows, width], -5, 5),
        w: sample([vocabulary, width], -2, 2, 2),
        t: ids([rows], ...Array.from({ length: rows }, (_, i) => (i % 6 === 5 ? -100 : (i * 7919) % vocabulary))),
      };
      const traced = trace(
        {
          h: { dtype: "float32", shape: [rows, width] },
          w: { dtype: "float32", shape: [vocabulary, width] },
          t: { dtype: "int64", shape: [rows] },
        },
        ({ h, w, t }) => {
          const results = (name: string, losses: Tensor) => {
            const [dh, dw] = grad(ops.mean(losses), [h, w]);
            return { [`${name} losses`]: losses, [`${name} dh`]: dh!, [`${name} dw`]: dw! };
          };
          return {
            ...results("whole", ops.crossEntropyPerTarget(ops.linear(h, w), t).losses),
            ...results("chunked", ops.linearCrossEntropy(h, w, t, { chunk: 8 }).losses),
          };
        },
      );
      const out = await runOnce(provider, traced, Object.fromEntries(Object.entries(inputs).map(([k, v]) => [k, host(v, "float32")])));
      for (const what of ["losses", "dh", "dw"]) {
        const whole = numbers(out[`whole ${what}`]!);
        const largest = Math.max(...whole.map(Math.abs));
        const scaled = (name: string) => numbers(out[`${name} ${what}`]!).map((v) => v / largest);
        expectClose(scaled("chunked"), scaled("whole"), 1e-6, what);
      }
    });

    test(`ignored targets give exactly 0 whatever stands in their rows, on ${provider}`, async () => {
      const traced = trace(
        { h: { dtype: "float32", shape: [4, 2] }, w: { dtype: "float32", shape: [3, 2] }, t: { dtype: "int64", shape: [4] } },
        ({ h, w, t }) => {
          const { losses, weights } = ops.linearCrossEntropy(h, w, t, { chunk: 2 });
          const [dh, dw] = grad(ops.sum(losses), [h, w]);
          return { losses, weights, dh: dh!, dw: dw! };
        },
      );
      const rows = [Number.NaN, 1, Number.POSITIVE_INFINITY, 0, 1, 0, 1e30, -1e30];
      const { losses, weights, dh, dw } = await runOnce(provider, traced, {
        h: host(values([4, 2], rows), "float32"),
        w: host(values([3, 2], [0, 0, 0, 0, 0, 0]), "float32"),
        t: host(ids([4], -100, -100, 2, -100), "float32"),
      });
      expectClose(numbers(losses!), [0, 0, Math.log(3), 0], 1e-6, "losses");
      expect(numbers(weights!)).toEqual([0, 0, 1, 0]);
      expect(numbers(dh!).map(Math.abs)).toEqual(Array(8).fill(0));
      expectClose(numbers(dw!), [1 / 3, 0, 1 / 3, 0, -2 / 3, 0], 1e-6, "gradient for the weight");
    });
  }
});

describe("crossEntropyOfHead", () => {
  const [rows, width, vocabulary] = [24, 4, 2 ** 20];
  /** Whether the program for the loss and its gradients has a value as large as all logits. */
  const holdsLogits = (head: (h: Tensor, w: Tensor, b: Tensor, low: Tensor) => Tensor) => {
    const traced = trace(
      {
        h: { dtype: "float32", shape: [1, rows, width] },
        w: { dtype: "float32", shape: [vocabulary, width] },
        b: { dtype: "float32", shape: [vocabulary] },
        low: { dtype: "float32", shape: [vocabulary, width] },
        t: { dtype: "int64", shape: [1, rows] },
      },
      ({ h, w, b, low, t }) => {
        const { losses, weights } = ops.crossEntropyOfHead(head(h, w, b, low), t);
        const [dh, dw, db] = grad(ops.sum(losses), [h, w, b]);
        return { losses, weights, dh: dh!, dw: dw!, db: db! };
      },
    );
    const values = [...reachable(Object.values(traced.outputs))].flatMap((n) => n.outputs);
    return values.some((t) => elementCount(t.shape as number[]) >= rows * vocabulary);
  };
  test("logits that a head computed are never whole: a matrix, with a bias, with a cap", () => {
    expect(holdsLogits((h, w) => ops.linear(h, w))).toBe(false);
    expect(holdsLogits((h, w, b) => ops.add(ops.linear(h, w), b))).toBe(false);
    expect(holdsLogits((h, w) => ops.softcap(ops.linear(h, w), 30))).toBe(false);
    expect(holdsLogits((h, w, b) => ops.softcap(ops.add(ops.linear(h, w), b), 30))).toBe(false);
  });
  test("logits of another form are taken as they are", () => {
    expect(holdsLogits((h, w, _b, low) => ops.add(ops.linear(h, w), ops.linear(h, low)))).toBe(true);
    expect(holdsLogits((h, w) => ops.mul(ops.linear(h, w), 0.5))).toBe(true);
    expect(holdsLogits((h, w) => ops.matmul(h, w, { transposeB: true, alpha: 2 }))).toBe(true);
  });
  test("says what a chunk of logits takes", () => {
    const { graph } = trace(
      {
        h: { dtype: "float32", shape: [8, 2] },
        w: { dtype: "float32", shape: [100, 2] },
        t: { dtype: "int64", shape: [8] },
      },
      ({ h, w, t }) => ops.linearCrossEntropy(h, w, t, { chunk: 3 }),
    );
    expect(graph.nodes.flatMap(ops.linearCrossEntropyWorkspace)).toEqual([300, 300]);
  });
  test("counts the products that are computed", () => {
    const flops = (wrt: readonly ("h" | "w")[]) =>
      ops.countMatmulFlops(
        trace(
          {
            h: { dtype: "float32", shape: [rows, width] },
            w: { dtype: "float32", shape: [vocabulary, width] },
            t: { dtype: "int64", shape: [rows] },
          },
          (i) => {
            const loss = ops.sum(ops.crossEntropyOfHead(ops.linear(i.h, i.w), i.t).losses);
            const gradients = grad(
              loss,
              wrt.map((name) => i[name]),
            );
            return { loss, ...Object.fromEntries(gradients.map((g, k) => [wrt[k]!, g])) };
          },
        ),
      ) /
      (2 * rows * width * vocabulary);
    expect([flops([]), flops(["h"]), flops(["h", "w"])]).toEqual([1, 2, 4]);
  });
  test("equals the loss of whole logits, with a bias and a cap", async () => {
    const [count, size] = [20, 2 ** 20];
    const inputs = {
      h: sample([count, 2], -3, 3),
      w: sample([size, 2], -2, 2, 2),
      b: sample([size], -1, 1, 3),
      t: ids([count], ...Array.from({ length: count }, (_, i) => i * 50_021)),
    };
    const traced = trace(
      {
        h: { dtype: "float32", shape: [count, 2] },
        w: { dtype: "float32", shape: [size, 2] },
        b: { dtype: "float32", shape: [size] },
        t: { dtype: "int64", shape: [count] },
      },
      ({ h, w, b, t }) => {
        const logits = ops.softcap(ops.add(ops.linear(h, w), b), 3);
        return { chunked: ops.crossEntropyOfHead(logits, t).losses, whole: ops.crossEntropyPerTarget(logits, t).losses };
      },
    );
    const out = await runOnce("cpu", traced, Object.fromEntries(Object.entries(inputs).map(([k, v]) => [k, host(v, "float32")])));
    expectClose(numbers(out.chunked!), numbers(out.whole!), 1e-6, "losses");
  });
});
