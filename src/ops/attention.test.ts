import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, ids, sample, type Values, values } from "../../tests/ops/harness.ts";
import { type Dim, subDims, type Tensor } from "../graph/index.ts";
import * as ops from "./index.ts";

/** Attention one number at a time. `hidden(query, key, head, batch)` is what the mask adds. */
function plainAttention(
  q: Values,
  k: Values,
  v: Values,
  mask: (i: number, j: number, h: number, b: number) => number,
  scale?: number,
): number[] {
  const [B, H, T, D] = q.shape as [number, number, number, number];
  const [, KV, S] = k.shape as [number, number, number];
  const E = v.shape[3]!;
  const out: number[] = [];
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const kv = Math.floor(h / (H / KV));
      for (let i = 0; i < T; i++) {
        const scores = Array.from({ length: S }, (_, j) => {
          let s = 0;
          for (let d = 0; d < D; d++) s += q.data[((b * H + h) * T + i) * D + d]! * k.data[((b * KV + kv) * S + j) * D + d]!;
          return s * (scale ?? 1 / Math.sqrt(D)) + mask(i, j, h, b);
        });
        const top = Math.max(...scores);
        const weights = scores.map((s) => Math.exp(s - top));
        const total = weights.reduce((x, y) => x + y);
        for (let e = 0; e < E; e++) out.push(weights.reduce((t, w, j) => t + (w / total) * v.data[((b * KV + kv) * S + j) * E + e]!, 0));
      }
    }
  }
  return out;
}

const none = () => 0;
const future = (i: number, j: number) => (j > i ? Number.NEGATIVE_INFINITY : 0);
const like = (mask: Tensor, x: Tensor) => ops.cast(mask, x.dtype);

describe("attention", () => {
  const heads = (queries: number, keys: number, h = 2, kv = 2, batch = 1, width = 2) => ({
    q: sample([batch, h, queries, width], -1, 1, 1),
    k: sample([batch, kv, keys, width], -1, 1, 2),
    v: sample([batch, kv, keys, 3], -1, 1, 3),
  });
  const plain = heads(2, 3);
  checkOp("every key visible", {
    inputs: plain,
    fn: (i) => ops.attention(i.q, i.k, i.v),
    expected: plainAttention(plain.q, plain.k, plain.v, none),
    second: true,
  });
  const grouped = heads(2, 2, 4, 2, 2);
  checkOp("grouped queries", {
    inputs: grouped,
    fn: (i) => ops.attention(i.q, i.k, i.v, { scale: 0.8 }),
    expected: plainAttention(grouped.q, grouped.k, grouped.v, none, 0.8),
  });
  const causal = heads(3, 3, 2, 1);
  checkOp("causal", {
    inputs: causal,
    fn: (i) => ops.attention(i.q, i.k, i.v, { mask: like(ops.causalMask(3, 3), i.q) }),
    expected: plainAttention(causal.q, causal.k, causal.v, (i, j) => (j <= i ? 0 : Number.NEGATIVE_INFINITY)),
  });
  const past = heads(2, 4, 2, 1);
  checkOp("causal with more keys than queries: the queries are the last ones", {
    inputs: past,
    fn: (i) => ops.attention(i.q, i.k, i.v, { mask: like(ops.causalMask(2, 4), i.q) }),
    expected: plainAttention(past.q, past.k, past.v, (i, j) => (j <= i + 2 ? 0 : Number.NEGATIVE_INFINITY)),
  });
  const masks: [string, number[]][] = [
    ["[queries, keys]", [2, 3]],
    ["[heads, queries, keys]", [4, 2, 3]],
    ["[batch, heads, queries, keys]", [2, 4, 2, 3]],
    ["[batch, 1, 1, keys]", [2, 1, 1, 3]],
    ["[1, 1, queries, keys]", [1, 1, 2, 3]],
  ];
  const two = heads(2, 3, 4, 2, 2);
  for (const [name, shape] of masks) {
    const mask = sample(shape, -2, 2, 9);
    const at = (i: number, j: number, h: number, b: number) => {
      const index = [b, h, i, j].slice(4 - shape.length);
      return mask.data[shape.reduce((o, d, n) => o * d + (d === 1 ? 0 : index[n]!), 0)]!;
    };
    checkOp(`mask ${name}, with its own gradient`, {
      inputs: { ...two, mask },
      fn: (i) => ops.attention(i.q, i.k, i.v, { mask: i.mask }),
      expected: plainAttention(two.q, two.k, two.v, at),
      wrt: ["q", "mask"],
    });
  }
  const row = heads(1, 2);
  checkOp("a row with every place hidden stays finite", {
    inputs: row,
    fn: (i) => ops.attention(i.q, i.k, i.v, { mask: like(ops.fill([1, 2], ops.hiddenScore), i.q) }),
    expected: plainAttention(row.q, row.k, row.v, none, 0),
    gradient: false,
  });
  checkOp("hidden by padding and by the future at once", {
    inputs: row,
    fn: (i) =>
      ops.attention(i.q, i.k, i.v, {
        mask: ops.add(like(ops.causalMask(1, 2), i.q), like(ops.where(ops.less(ops.range(2), 1), ops.hiddenScore, 0), i.q)),
      }),
    expected: plainAttention(row.q, row.k, row.v, (_, j) => (j === 0 ? Number.NEGATIVE_INFINITY : 0)),
  });
  checkSymbolic("attention over past and present", {
    inputs: { q: ["b", 2, "t", 2], past: ["b", 1, "p", 2], now: ["b", 1, "t", 2] },
    sizes: [
      { b: 1, t: 1, p: 3 },
      { b: 2, t: 3, p: 1 },
    ],
    fn: (i) => {
      const k = ops.concat([i.past, i.now], 2);
      return ops.attention(i.q, k, k, { mask: ops.causalMask(i.q.shape[2]!, k.shape[2]!) });
    },
  });
  const q = ["float32", 1, 4, 2, 8] as const;
  checkRejects(
    "ranks",
    { q: ["float32", 4, 2, 8], k: q, v: q },
    (i) => ops.attention(i.q, i.k, i.v),
    /must be \[batch, heads, time, width\]/,
  );
  checkRejects(
    "heads",
    { q, k: ["float32", 1, 3, 2, 8], v: ["float32", 1, 3, 2, 8] },
    (i) => ops.attention(i.q, i.k, i.v),
    /4 query heads cannot share 3/,
  );
  checkRejects(
    "widths",
    { q, k: ["float32", 1, 2, 2, 6], v: ["float32", 1, 2, 2, 8] },
    (i) => ops.attention(i.q, i.k, i.v),
    /Attention.*width/,
  );
  checkRejects(
    "lengths",
    { q, k: ["float32", 1, 2, 3, 8], v: ["float32", 1, 2, 2, 8] },
    (i) => ops.attention(i.q, i.k, i.v),
    /Attention.*k and v/,
  );
  checkRejects(
    "mask",
    { q, k: q, v: q, mask: ["float32", 3, 2] },
    (i) => ops.attention(i.q, i.k, i.v, { mask: i.mask }),
    /Attention.*mask/,
  );
  checkRejects(
    "dtype of the values",
    { q: ["float32", 1, 4, 2, 8], v: ["float16", 1, 4, 2, 8] },
    (i) => ops.attention(i.q, i.q, i.v),
    /SoftmaxMatMul\(scores float32 .*, v float16 .*\): scores and v must have one dtype/,
  );
});

describe("rotary", () => {
  const x = sample([2, 2, 3, 4]);
  const angles = [0, 1, 2, 3, 4].flatMap((p) => [p, p * 0.1]);
  const tables = { cos: values([5, 2], angles.map(Math.cos)), sin: values([5, 2], angles.map(Math.sin)) };
  const positions = ids([2, 3], 0, 1, 2, 2, 3, 4);
  const expected = x.data.map((v, n) => {
    const d = n % 4;
    const position = positions.data[Math.floor(n / 24) * 3 + (Math.floor(n / 4) % 3)]!;
    const angle = position * (d % 2 === 0 ? 1 : 0.1);
    const partner = x.data[d < 2 ? n + 2 : n - 2]!;
    return v * Math.cos(angle) + (d < 2 ? -1 : 1) * partner * Math.sin(angle);
  });
  checkOp("rotates by position", {
    inputs: { x, ...tables, positions },
    fn: (i) => ops.rotary(i.x, i.cos, i.sin, i.positions),
    expected,
    wrt: ["x"],
    second: true,
  });
  checkSymbolic("rotary", {
    inputs: { x: ["b", 2, "t", 4], cos: [8, 2], sin: [8, 2], positions: ["b", "t"] },
    sizes: [
      { b: 1, t: 3 },
      { b: 2, t: 5 },
    ],
    make: { positions: (shape) => ids(shape, ...Array.from({ length: shape[0]! * shape[1]! }, (_, i) => i % 8)) },
    fn: (i) => ops.rotary(i.x, i.cos, i.sin, i.positions),
    wrt: ["x"],
  });
  const good = { x: ["float32", 1, 2, 3, 4], cos: ["float32", 8, 2], sin: ["float32", 8, 2], positions: ["int64", 1, 3] } as const;
  checkRejects("odd width", { ...good, x: ["float32", 1, 2, 3, 5] }, (i) => ops.rotary(i.x, i.cos, i.sin, i.positions), /Rotary.*width\/2/);
  checkRejects(
    "positions",
    { ...good, positions: ["int64", 1, 4] },
    (i) => ops.rotary(i.x, i.cos, i.sin, i.positions),
    /positions must be int64 \[batch, time\]/,
  );
  for (const name of ["cos", "sin"]) {
    checkRejects(
      `dtype of the table ${name}`,
      { ...good, [name]: ["float64", 8, 2] },
      (i) => ops.rotary(i.x, i.cos, i.sin, i.positions),
      /Rotary.*tables must have the dtype of x/,
    );
  }
});

describe("causalAttention", () => {
  // 130 positions are cut into two blocks, 520 into four and 40 are not; none may change a number.
  for (const time of [40, 130, 520]) {
    const inputs = { q: sample([1, 2, time, 2], -1, 1, 1), k: sample([1, 1, time, 2], -1, 1, 2), v: sample([1, 1, time, 3], -1, 1, 3) };
    checkOp(`${time} positions`, {
      inputs,
      fn: (i) => ops.causalAttention(i.q, i.k, i.v),
      expected: plainAttention(inputs.q, inputs.k, inputs.v, future),
      gradient: time < 500,
    });
  }
  for (const time of [20, 130]) {
    const inputs = { q: sample([1, 2, time, 2], -1, 1, 1), k: sample([1, 1, time, 2], -1, 1, 2), v: sample([1, 1, time, 3], -1, 1, 3) };
    checkOp(`${time} positions, and a mask that hides more than the future`, {
      inputs,
      fn: (i) => {
        const near = (from: Dim, to: Dim) => {
          const distance = ops.sub(ops.unsqueeze(ops.range(subDims(to, from), from), 1), ops.range(to));
          return ops.where(ops.logicalAnd(ops.greaterOrEqual(distance, 0), ops.less(distance, 7)), 0, ops.hiddenScore);
        };
        return ops.causalAttention(i.q, i.k, i.v, { mask: near });
      },
      expected: plainAttention(inputs.q, inputs.k, inputs.v, (i, j) => (j > i || i - j >= 7 ? Number.NEGATIVE_INFINITY : 0)),
      gradient: time < 100,
    });
  }
  const few = { q: sample([1, 2, 2, 2], -1, 1, 1), k: sample([1, 1, 5, 2], -1, 1, 2), v: sample([1, 1, 5, 3], -1, 1, 3) };
  checkOp("more keys than queries: the queries are the last ones", {
    inputs: few,
    fn: (i) => ops.causalAttention(i.q, i.k, i.v),
    expected: plainAttention(few.q, few.k, few.v, (i, j) => future(i + 3, j)),
  });
  checkSymbolic("causalAttention", {
    inputs: { q: ["b", 2, "t", 2], k: ["b", 1, "t", 2], v: ["b", 1, "t", 2] },
    sizes: [
      { b: 1, t: 2 },
      { b: 2, t: 5 },
    ],
    fn: (i) => ops.causalAttention(i.q, i.k, i.v),
  });
});
