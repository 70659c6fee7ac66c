import { afterAll, expect, test } from "vitest";
import { grad } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import {
  attention,
  type ComputeDtype,
  computeDtype,
  computingIn,
  crossEntropyOfHead,
  linear,
  linearCrossEntropy,
  mul,
  softcap,
  sum,
} from "./index.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

const random = (shape: number[], seed: number, size = 1) =>
  hostTensor(
    "float32",
    shape,
    Float32Array.from({ length: shape.reduce((n, d) => n * d) }, (_, i) => size * Math.sin(seed + 12.9898 * i)),
  );

async function run(feeds: Record<string, ReturnType<typeof random>>, fn: (i: Record<string, Tensor>) => Record<string, Tensor>) {
  const traced = trace(feeds, fn);
  const program = await device.compile(traced);
  const out = await program.run(feeds);
  await program.dispose();
  const ops = traced.graph.nodes.map((n) => `${n.op.name}:${n.outputs[0]!.dtype}`);
  return { out: Object.fromEntries(Object.entries(out).map(([k, v]) => [k, Array.from(v.data as Float32Array)])), ops };
}
const distance = (a: number[], b: number[]) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));

test("products and their gradients are rounded to 16 bits, and what is added up of them is not", async () => {
  const feeds = { x: random([5, 40], 1), w: random([7, 40], 2) };
  const step = (dtype: ComputeDtype) => (i: Record<string, Tensor>) =>
    computingIn(dtype, () => {
      const y = linear(i.x!, i.w!);
      const [dx, dw] = grad(sum(mul(y, y)), [i.x!, i.w!]);
      return { y, dx: dx!, dw: dw! };
    });
  const [exact, half] = [await run(feeds, step("float32")), await run(feeds, step("float16"))];
  for (const name of ["y", "dx", "dw"]) {
    const size = Math.max(...exact.out[name]!.map(Math.abs));
    const off = distance(half.out[name]!, exact.out[name]!) / size;
    expect(off).toBeLessThan(3e-3);
    expect(off).toBeGreaterThan(1e-6);
  }
  expect(half.ops.filter((op) => op.startsWith("MatMul"))).toEqual(Array(3).fill("MatMul:float16"));
  expect(half.ops.filter((op) => op.startsWith("ReduceSum"))).toEqual(["ReduceSum:float32"]);
});

test("what was 16 bits wide before is not widened in between", async () => {
  const feeds = { x: random([1, 2], 1), w: random([2, 2], 2), v: random([1, 2], 3) };
  const { ops } = await run(feeds, (i) => computingIn("float16", () => ({ y: linear(linear(i.x!, i.w!), i.v!) })));
  expect(ops.filter((op) => op === "Cast:float16").length).toBe(3); // x, w and v; not what the first product gave
  expect(ops.filter((op) => op.startsWith("MatMul"))).toEqual(["MatMul:float16", "MatMul:float16"]);
});

test("the scope ends, also by an error", () => {
  expect(() =>
    computingIn("float16", () => {
      throw new Error("stop");
    }),
  ).toThrow("stop");
  expect(computeDtype()).toBe("float32");
});

test("softmax and losses stay in float32; a head's product does not, chunk by chunk too", async () => {
  const feeds = { q: random([1, 2, 6, 8], 3), k: random([1, 2, 6, 8], 4), hidden: random([6, 16], 5), head: random([50, 16], 6) };
  const targets = (i: Record<string, Tensor>) => i.targets!;
  const all = { ...feeds, targets: hostTensor("int64", [6], BigInt64Array.of(1n, 2n, -100n, 30n, 49n, 0n)) };
  const step = (dtype: ComputeDtype) => (i: Record<string, Tensor>) =>
    computingIn(dtype, () => {
      const mixed = attention(i.q!, i.k!, i.k!);
      const plain = crossEntropyOfHead(softcap(linear(i.hidden!, i.head!), 5), targets(i));
      const chunked = linearCrossEntropy(i.hidden!, i.head!, targets(i), { chunk: 4, softcap: 5 });
      const [dh, dw] = grad(sum(chunked.losses), [i.hidden!, i.head!]);
      const [dq] = grad(sum(mul(mixed, mixed)), [i.q!]);
      return { mixed, dq: dq!, plain: plain.losses, chunked: chunked.losses, dh: dh!, dw: dw! };
    });
  const [exact, half] = [await run(all as never, step("float32")), await run(all as never, step("float16"))];
  for (const name of Object.keys(exact.out)) {
    const size = Math.max(...exact.out[name]!.map(Math.abs));
    const off = distance(half.out[name]!, exact.out[name]!) / size;
    expect(off, name).toBeLessThan(3e-3);
    expect(off, name).toBeGreaterThan(1e-7);
  }
  expect(distance(half.out.plain!, half.out.chunked!)).toBeLessThan(1e-3);
  expect(half.ops.filter((op) => op.startsWith("Softmax"))).toEqual(expect.arrayContaining(["Softmax:float32"]));
  expect(half.ops.filter((op) => op.endsWith(":float16") && !/^(MatMul|Cast|Reshape|Transpose|Expand)/.test(op))).toEqual([]);
});
