import { describe, test } from "vitest";
import * as ops from "../../src/ops/index.ts";
import { compareProviders, ids, type OpCase, sample } from "./harness.ts";

// Providers choose other kernels for larger operands (vectorised, tiled, split over workgroups), which the tiny cases beside the operators
// never reach: here values and gradients of every provider are compared with the CPU's.

const many = (count: number, below: number) => Array.from({ length: count }, (_, i) => (i * 7919 + (i >> 3)) % below);
const compare = <K extends string>(name: string, c: Pick<OpCase<K>, "inputs" | "fn" | "wrt">) => test(name, () => compareProviders(c));

describe("larger operands, against the CPU", () => {
  compare("matmul of a batch by a weight, each way round", {
    inputs: { a: sample([2, 36, 68]), at: sample([2, 68, 36]), b: sample([68, 40]), bt: sample([40, 68]) },
    fn: (i) => [
      ops.matmul(i.a, i.b),
      ops.matmul(i.at, i.b, { transposeA: true }),
      ops.matmul(i.a, i.bt, { transposeB: true, alpha: 0.5 }),
      ops.matmul(i.at, i.bt, { transposeA: true, transposeB: true }),
    ],
  });
  compare("matmul of batches by batches", {
    inputs: { a: sample([3, 1, 35, 33]), b: sample([2, 33, 37]) },
    fn: (i) => ops.matmul(i.a, i.b),
  });
  compare("attention", {
    inputs: { q: sample([2, 4, 36, 8]), k: sample([2, 2, 36, 8], -1, 1, 2), v: sample([2, 2, 36, 8], -1, 1, 3) },
    fn: (i) => ops.attention(i.q, i.k, i.v, { mask: ops.causalMask(36, 36) }),
  });
  compare("rotary", {
    inputs: { x: sample([2, 3, 33, 32]), cos: sample([64, 16]), sin: sample([64, 16], -1, 1, 2), at: ids([2, 33], ...many(66, 64)) },
    fn: (i) => ops.rotary(i.x, i.cos, i.sin, i.at),
    wrt: ["x"],
  });
  compare("rmsNorm", { inputs: { x: sample([2, 33, 320]), w: sample([320]) }, fn: (i) => ops.rmsNorm(i.x, i.w) });
  compare("layerNorm", { inputs: { x: sample([65, 257]), w: sample([257]), b: sample([257]) }, fn: (i) => ops.layerNorm(i.x, i.w, i.b) });
  compare("softmax and logSoftmax", {
    inputs: { x: sample([5, 1001], -4, 4) },
    fn: (i) => [ops.softmax(i.x), ops.logSoftmax(i.x), ops.softmax(i.x, 0)],
  });
  compare("crossEntropy over a vocabulary", {
    inputs: { x: sample([60, 1003], -4, 4), t: ids([60], ...many(60, 1003).map((v, i) => (i % 5 === 0 ? -100 : v))) },
    fn: (i) => ops.crossEntropy(i.x, i.t, { labelSmoothing: 0.1 }),
  });
  compare("embedding whose gradient adds up many rows", {
    inputs: { table: sample([97, 24]), at: ids([4, 300], ...many(1200, 97)) },
    fn: (i) => ops.embedding(i.at, i.table),
  });
  compare("reductions over long and short axes", {
    inputs: { x: sample([7, 3000]) },
    fn: (i) => [ops.sum(i.x), ops.mean(i.x, 1), ops.max(i.x, 1), ops.min(i.x, 0), ops.sum(i.x, 0), ops.logSumExp(i.x), ops.argMax(i.x)],
  });
  compare("cumSum and topK", {
    inputs: { x: sample([3, 700]) },
    fn: (i) => [ops.cumSum(i.x), ops.topK(i.x, 20).values, ops.topK(i.x, 20).indices],
  });
  compare("movement", {
    inputs: { x: sample([33, 65, 18]) },
    fn: (i) => [
      ops.transpose(i.x, [2, 0, 1]),
      ops.transpose(i.x, [1, 0, 2]),
      ops.concat([ops.slice(i.x, 1, 3, 40), ops.pad(ops.slice(i.x, 1, 40), 1, 2, 3)], 1),
      ops.flip(i.x, 1),
      ops.split(i.x, 3, 2)[1]!,
    ],
  });
  compare("broadcasts over the middle", {
    inputs: { a: sample([33, 1, 40]), b: sample([17, 1]) },
    fn: (i) => ops.mul(ops.add(i.a, i.b), ops.exp(i.b)),
  });
  compare("conv2d", {
    inputs: { x: sample([2, 16, 15, 14]), w: sample([24, 8, 3, 3]), b: sample([24]) },
    fn: (i) => ops.conv2d(i.x, i.w, { bias: i.b, stride: 2, padding: 1, groups: 2 }),
  });
  compare("depthwise conv1d", {
    inputs: { x: sample([2, 48, 100]), w: sample([48, 1, 4]) },
    fn: (i) => ops.conv1d(i.x, i.w, { padding: 3, groups: 48 }),
  });
  compare("convTranspose2d", {
    inputs: { x: sample([2, 16, 9, 8]), w: sample([16, 12, 4, 4]) },
    fn: (i) => ops.convTranspose2d(i.x, i.w, { stride: 2, padding: 1 }),
  });
  compare("pools", {
    inputs: { x: sample([2, 8, 33, 34]) },
    fn: (i) => [ops.maxPool2d(i.x, 3, { stride: 2, padding: 1 }), ops.averagePool2d(i.x, 3, { stride: 2, padding: 1 })],
  });
  compare("a whole transformer block and its gradient", {
    inputs: {
      ids: ids([2, 12], ...many(24, 50)),
      table: sample([50, 32], -0.5, 0.5),
      norm: sample([32], 0.5, 1.5),
      q: sample([32, 32], -0.3, 0.3, 2),
      k: sample([16, 32], -0.3, 0.3, 3),
      v: sample([16, 32], -0.3, 0.3, 4),
      up: sample([64, 32], -0.3, 0.3, 5),
      down: sample([32, 64], -0.3, 0.3, 6),
      targets: ids([2, 12], ...many(24, 50).reverse()),
    },
    fn: (i) => {
      const x = ops.embedding(i.ids, i.table);
      const h = ops.rmsNorm(x, i.norm);
      const heads = (t: typeof x, n: number) => ops.transpose(ops.reshape(t, [2, 12, n, 8]), [0, 2, 1, 3]);
      const a = ops.attention(heads(ops.linear(h, i.q), 4), heads(ops.linear(h, i.k), 2), heads(ops.linear(h, i.v), 2), {
        mask: ops.causalMask(12, 12),
      });
      const y = ops.add(x, ops.reshape(ops.transpose(a, [0, 2, 1, 3]), [2, 12, 32]));
      const z = ops.add(y, ops.linear(ops.silu(ops.linear(ops.rmsNorm(y, i.norm), i.up)), i.down));
      return ops.crossEntropy(ops.linear(z, i.table), i.targets);
    },
  });
});
