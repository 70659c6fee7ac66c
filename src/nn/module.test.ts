import { describe, expect, test } from "vitest";
import { type Tensor, trace } from "../graph/index.ts";
import { add } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { dropout } from "./dropout.ts";
import { zeros } from "./initializers.ts";
import { Linear } from "./layers.ts";
import { inTraining } from "./mode.ts";
import { floats, Module, Parameter } from "./module.ts";

class Block extends Module {
  readonly first = new Linear(2, 3, { init: zeros, bias: true });
  readonly parts = [new Linear(3, 3, { init: zeros }), new Linear(3, 2, { init: zeros })];
  forward(x: Tensor): Tensor {
    return this.parts.reduce((y, part) => part.forward(y), this.first.forward(x));
  }
}

class Tied extends Module {
  readonly weight = new Parameter([2], () => floats([2], Float32Array.of(1, 2)));
  readonly head: { weight: Parameter } & Module;
  constructor() {
    super();
    this.head = new Head(this.weight);
  }
  forward(): Tensor {
    return add(this.weight.value, this.head.weight.value);
  }
}

class Head extends Module {
  readonly weight: Parameter;
  constructor(weight: Parameter) {
    super();
    this.weight = weight;
  }
  forward(): void {}
}

describe("the module tree", () => {
  test("parameters are named by their field paths, in the order of the fields", () => {
    expect(Array.from(new Block().namedParameters(), ([name]) => name)).toEqual([
      "first.weight",
      "first.bias",
      "parts.0.weight",
      "parts.1.weight",
    ]);
  });

  test("a parameter that two modules share comes once, under its first path", () => {
    expect(Array.from(new Tied().namedParameters(), ([name]) => name)).toEqual(["weight"]);
  });

  test("an initialiser runs only when the values are needed", () => {
    let calls = 0;
    const p = new Parameter([1], () => {
      calls++;
      return floats([1], Float32Array.of(4));
    });
    expect(calls).toBe(0);
    expect((p.storage as { data: Float32Array }).data[0]).toBe(4);
    expect(p.storage && calls).toBe(1);
    const replaced = new Parameter([1], () => {
      throw new Error("never");
    });
    replaced.storage = floats([1], Float32Array.of(5));
    expect((replaced.storage as { data: Float32Array }).data[0]).toBe(5);
  });

  test("values of another shape are refused with the parameter's name", () => {
    const block = new Block().assignNames();
    expect(() => {
      block.first.weight.storage = floats([2], new Float32Array(2));
    }).toThrow(/"first.weight" is float32 \[3,2\] and cannot hold float32 \[2\]/);
  });

  test("a module is found, or its nearest names are; it can be replaced, also inside an array", () => {
    const block = new Block();
    expect(block.module("parts.1")).toBe(block.parts[1]);
    expect(() => block.module("part.1")).toThrow(/no module "part.1". Nearest: parts.1/);
    const other = new Linear(3, 2, { init: zeros });
    block.replace("parts.1", other);
    expect(block.parts[1]).toBe(other);
    expect(() => block.replace("parts.7", other)).toThrow(/no module at "parts.7"/);
  });

  test("nodes carry the module's path, and errors name it", () => {
    const block = new Block().assignNames();
    const { graph } = trace({ x: { dtype: "float32", shape: [1, 2] } }, ({ x }) => ({ y: block.forward(x) }));
    expect(graph.nodes.filter((n) => n.op.name === "MatMul").map((n) => n.path)).toEqual(["first", "parts.0", "parts.1"]);
    expect(() => trace({ x: { dtype: "float32", shape: [1, 3] } }, ({ x }) => ({ y: block.forward(x) }))).toThrow(
      /^first: matmul\(a float32 \[1,3\], b float32 \[3,2\]\)/,
    );
  });
});

describe("dropout", () => {
  const program = (p: number, training: boolean) =>
    cpu({ threads: 1 }).compile(
      trace({ x: { dtype: "float32", shape: [1000] } }, ({ x }) => ({ y: training ? inTraining(() => dropout(x, p)) : dropout(x, p) })),
    );
  const feeds = (step: number) => ({
    x: hostTensor("float32", [1000], new Float32Array(1000).fill(1)),
    "random.seed": hostTensor("int32", [], Int32Array.of(1)),
    "random.step": hostTensor("int32", [], Int32Array.of(step)),
  });

  test("acts in training only, keeps the mean, and is a function of the step", async () => {
    const off = await program(0.25, false);
    expect((await off.run(feeds(0))).y!.data).toEqual(new Float32Array(1000).fill(1));
    const on = await program(0.25, true);
    const [a, b, again] = [await on.run(feeds(0)), await on.run(feeds(1)), await on.run(feeds(0))].map((o) =>
      Array.from(o.y!.data as Float32Array),
    ) as [number[], number[], number[]];
    expect(a).toEqual(again);
    expect(a).not.toEqual(b);
    expect(new Set(a.map((v) => Math.round(v * 1e4) / 1e4))).toEqual(new Set([0, 1.3333]));
    expect(a.reduce((x, y) => x + y) / 1000).toBeCloseTo(1, 1);
  });
});
