import { expect, test } from "vitest";
import { assign, type MemoryStorage, read, trace, Variable } from "../graph/index.ts";
import { add, exp, gather, linear, mul, sin, sum, when } from "../ops/index.ts";
import { estimateStep } from "./estimate.ts";
import { executionOrder } from "./execution-order.ts";

const mb = 2 ** 20;
const zeros = (shape: number[]): MemoryStorage => {
  const n = shape.reduce((a, b) => a * b, 1);
  return { kind: "memory", dtype: "float32", shape, data: new Float32Array(n) };
};
const variable = (name: string, shape: number[], frozen = false) =>
  new Variable(name, { dtype: "float32", shape }, () => zeros(shape), { frozen });
const x = { dtype: "float32", shape: [256, 1024] } as const; // one megabyte

test("values that exist at once: operators write over what nobody reads any more", () => {
  const chain = trace({ x }, (i) => ({ y: sum(sin(exp(sin(i.x)))) }));
  expect(estimateStep(chain).liveBytes).toBe(mb);
  const kept = trace({ x }, ({ x }) => {
    const a = sin(x);
    return { y: sum(mul(sin(exp(a)), a)) };
  });
  expect(estimateStep(kept).liveBytes).toBe(2 * mb);
});

test("state counts twice, weights that are read in whole once, of a table what lies near the rows taken", () => {
  const [w, table, state] = [variable("w", [1024, 1024], true), variable("table", [2048, 256], true), variable("s", [256, 1024])];
  const traced = trace({ x, at: { dtype: "int64", shape: [2] } }, ({ x, at }) => {
    assign(state, add(read(state), linear(x, read(w))));
    return { y: sum(gather(read(table), at)) };
  });
  const { stateBytes, frozenBytes } = estimateStep(traced);
  expect(stateBytes).toBe(2 * mb);
  expect(frozenBytes).toBe(4 * mb + 2 * 2 ** 16);
});

test("the order is that of ONNX Runtime: operands traced first come first, updates traced last too", () => {
  const traced = trace({ x, open: { dtype: "bool", shape: [] } }, ({ x, open }) => {
    const early = sin(x);
    const late = exp(x);
    const [gated] = when(
      open,
      () => [mul(early, 2)],
      () => [x],
    );
    return { a: sum(gated!), b: add(sum(late), sum(early)) };
  });
  const names = executionOrder(traced).order.map(({ op }) => op.name);
  const at = (name: string) => names.indexOf(name);
  expect(at("Exp")).toBeLessThan(at("Sin"));
  expect(at("Mul")).toBeLessThan(at("When"));
  expect(names.indexOf("Add")).toBeLessThan(at("When"));
});

test("programs of one step share their variables; each has an arena of its own", () => {
  const state = variable("s", [256, 1024]);
  const program = () =>
    trace({ x }, ({ x }) => {
      assign(state, add(read(state), sin(exp(x))));
      return {};
    });
  const [one, two] = [estimateStep(program()), estimateStep([program(), program()], 3)];
  expect(two.stateBytes).toBe(one.stateBytes);
  expect(two.activationBytes).toBe(2 * one.activationBytes);
});
