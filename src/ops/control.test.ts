import { describe, expect, test } from "vitest";
import { onnx } from "../../tests/onnx-proto.ts";
import { bools, checkOp, checkRejects, checkSymbolic, host, sample, vector } from "../../tests/ops/harness.ts";
import { device } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import { encode } from "../onnx/index.ts";
import * as ops from "./index.ts";

const x = vector(1, -2, 3);

describe("when", () => {
  for (const open of [1, 0]) {
    const gate = bools([], open);
    const pick = (then: number[], otherwise: number[]) => (open ? then : otherwise);
    const name = open ? "open" : "closed";
    checkOp(`${name}: one of two branches`, {
      inputs: { gate, x },
      fn: (i) =>
        ops.when(
          i.gate,
          () => [ops.mul(i.x, i.x), ops.sum(i.x)],
          () => [ops.neg(i.x), ops.mul(ops.sum(i.x), 3)],
        ),
      expected: open ? [[1, 4, 9], [2]] : [[-1, 2, -3], [6]],
    });
    checkOp(`${name}: a branch that only passes a value on`, {
      inputs: { gate, x },
      fn: (i) =>
        ops.when(
          i.gate,
          () => [ops.exp(i.x)],
          () => [i.x],
        ),
      expected: pick(x.data.map(Math.exp), [...x.data]),
    });
    checkOp(`${name}: branches without any outer value`, {
      inputs: { gate, x },
      fn: (i) => [
        ops.mul(
          i.x,
          ops.when(
            i.gate,
            () => [ops.fill([], 2, i.x.dtype)],
            () => [ops.fill([], 3, i.x.dtype)],
          )[0]!,
        ),
      ],
      expected: x.data.map((v) => v * (open ? 2 : 3)),
    });
    checkOp(`${name}: a captured value that depends on another captured one`, {
      inputs: { gate, x },
      fn: (i) => {
        const y = ops.mul(i.x, i.x);
        return ops.when(
          i.gate,
          () => [ops.mul(y, i.x)],
          () => [ops.add(y, i.x)],
        );
      },
      expected: pick([1, -8, 27], [2, 2, 12]),
    });
    checkOp(`${name}: work outside that one branch reads, and work that both read`, {
      inputs: { gate, x },
      fn: (i) => {
        const forOne = ops.exp(i.x);
        const forBoth = ops.sin(i.x);
        const forAll = ops.cos(i.x);
        const [y] = ops.when(
          i.gate,
          () => [ops.mul(ops.mul(forOne, forBoth), forAll)],
          () => [ops.sub(forBoth, forAll)],
        );
        return [y!, forAll];
      },
      expected: [x.data.map((v) => (open ? Math.exp(v) * Math.sin(v) * Math.cos(v) : Math.sin(v) - Math.cos(v))), x.data.map(Math.cos)],
    });
    for (const inner of [1, 0]) {
      checkOp(`${name}: a gate in a branch, ${inner ? "open" : "closed"}`, {
        inputs: { gate, inner: bools([], inner), x },
        fn: (i) => {
          const shared = ops.mul(i.x, 2);
          return ops.when(
            i.gate,
            () => {
              const own = ops.mul(i.x, shared);
              return [
                ops.add(
                  ops.when(
                    i.inner,
                    () => [ops.mul(own, i.x)],
                    () => [ops.mul(shared, 5)],
                  )[0]!,
                  own,
                ),
              ];
            },
            () => [ops.neg(shared)],
          );
        },
        expected: x.data.map((v) => (!open ? -2 * v : inner ? 2 * v ** 3 + 2 * v * v : 10 * v + 2 * v * v)),
      });
    }
    checkOp(`${name}: the outcome of one gate feeds another`, {
      inputs: { gate, x },
      fn: (i) => {
        const [y] = ops.when(
          i.gate,
          () => [ops.mul(i.x, 2)],
          () => [i.x],
        );
        return ops.when(
          ops.logicalNot(i.gate),
          () => [ops.mul(y!, y!)],
          () => [ops.mul(y!, 3)],
        );
      },
      expected: pick(
        x.data.map((v) => 6 * v),
        x.data.map((v) => v * v),
      ),
    });
  }
  checkOp("second derivative through a gate", {
    inputs: { gate: bools([], 1), x },
    fn: (i) =>
      ops.when(
        i.gate,
        () => [ops.mul(i.x, i.x)],
        () => [i.x],
      ),
    expected: [1, 4, 9],
    second: true,
  });
  checkSymbolic("when", {
    inputs: { x: ["b", 2], gate: [] },
    sizes: [{ b: 1 }, { b: 4 }],
    make: { gate: () => bools([], 1) },
    fn: (i) =>
      ops.when(
        i.gate,
        () => [ops.mul(i.x, ops.onesLike(i.x))],
        () => [ops.zerosLike(i.x)],
      ),
  });

  const gate = ["bool"] as const;
  checkRejects(
    "a gate of floats",
    { g: ["float32"], x: ["float32", 2] },
    (i) =>
      ops.when(
        i.g,
        () => [i.x],
        () => [i.x],
      ),
    /gate must be one bool/,
  );
  checkRejects(
    "several gates",
    { g: ["bool", 2], x: ["float32", 2] },
    (i) =>
      ops.when(
        i.g,
        () => [i.x],
        () => [i.x],
      ),
    /gate must be one bool/,
  );
  checkRejects(
    "counts",
    { g: gate, x: ["float32", 2] },
    (i) =>
      ops.when(
        i.g,
        () => [i.x],
        () => [],
      ),
    /branches return 1 and 0 tensors/,
  );
  checkRejects(
    "types",
    { g: gate, x: ["float32", 2], y: ["float32", 3] },
    (i) =>
      ops.when(
        i.g,
        () => [i.x],
        () => [i.y],
      ),
    /result 0 is float32 \[2\] in one branch and float32 \[3\]/,
  );
});

describe("a closed gate costs nothing", () => {
  const size = 512;
  const step = (i: Record<"gate" | "w" | "x", Tensor>) => {
    const loss = ops.sum(ops.matmul(i.x, i.w));
    const [gradient] = grad(loss, [i.w]);
    const [updated] = ops.when(
      i.gate,
      () => [ops.sub(i.w, ops.matmul(gradient!, ops.mul(i.x, 0.1)))],
      () => [i.w],
    );
    return { first: ops.slice(ops.slice(updated!, 0, 0, 1), 1, 0, 1) };
  };
  const types = {
    gate: { dtype: "bool", shape: [] },
    w: { dtype: "float32", shape: [size, size] },
    x: { dtype: "float32", shape: [size, size] },
  } as const;

  test("the gradient and the update are placed in the branch", () => {
    const { bytes } = encode(trace(types, step), { values: () => new Float32Array() });
    const model = onnx.ModelProto.decode(bytes);
    const outside = model.graph!.node!.map((n) => n.opType);
    expect(outside).toContain("If");
    expect(outside.filter((type) => type?.includes("MatMul"))).toEqual([]);
  });

  test("and its time is a fraction of the open one's", async () => {
    const program = await (await device("cpu")).compile(trace(types, step));
    const fed = { w: host(sample([size, size]), "float32"), x: host(sample([size, size]), "float32") };
    const time = async (open: number) => {
      const feeds = { ...fed, gate: host(bools([], open), "float32") };
      const times = [];
      for (let i = 0; i < 7; i++) {
        const start = performance.now();
        await program.run(feeds);
        times.push(performance.now() - start);
      }
      return Math.min(...times);
    };
    const [open, closed] = [await time(1), await time(0)];
    await program.dispose();
    expect(closed).toBeLessThan(open / 4);
  });
});
