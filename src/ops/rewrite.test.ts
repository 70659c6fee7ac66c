import { afterAll, describe, expect, test } from "vitest";
import { currentGraph, symbol, type Traced, trace, Variable } from "../graph/index.ts";
import { type HostTensor, hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import * as ops from "./index.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

const weight = new Variable(
  "w",
  { dtype: "float32", shape: [2, 2] },
  { kind: "memory", dtype: "float32", shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) },
);
const product = trace({ x: { dtype: "float32", shape: [1, 2] } }, ({ x }) => ({
  y: ops.add(ops.linear(x, currentGraph().variable(weight)), 1),
}));

async function run(traced: Traced, feeds: Record<string, HostTensor>) {
  const program = await device.compile(traced);
  const results = await program.run(feeds);
  await program.dispose();
  return Array.from(results.y!.data as Float32Array);
}
const x = hostTensor("float32", [1, 2], Float32Array.of(10, 1));

describe("rewrite", () => {
  test("leaves alone what no rule names", async () => {
    expect(await run(ops.rewrite(product, {}), { x })).toEqual([13, 35]);
  });

  test("a variable becomes an input, and shapes follow from the input's", async () => {
    const rows = symbol("rows");
    const fed = ops.rewrite(product, { variable: (v) => currentGraph().input(v.name, v.dtype, [rows, 2]) });
    expect([...fed.graph.variables.keys()]).toEqual([]);
    expect(String(fed.outputs.y!.shape[1])).toBe("rows");
    const w = hostTensor("float32", [3, 2], Float32Array.of(1, 0, 0, 1, 1, 1));
    expect(await run(fed, { x, w })).toEqual([11, 2, 12]);
  });

  test("a node becomes others, whose operands are those of the graph that is made", async () => {
    const doubled = ops.rewrite(product, { node: (n, operands) => (n.op.name === "MatMul" ? [ops.mul(operands.a!, 2)] : undefined) });
    expect(await run(doubled, { x })).toEqual([21, 3]);
  });

  test("keeps inputs that nothing reads, and the order of all", () => {
    const types = { a: { dtype: "float32", shape: [1] }, b: { dtype: "float32", shape: [1] } } as const;
    const { graph } = ops.rewrite(
      trace(types, ({ b }) => ({ y: ops.exp(b) })),
      {},
    );
    expect([...graph.inputs.keys()]).toEqual(["a", "b"]);
  });

  test("refuses graphs within nodes", () => {
    const gated = trace({ g: { dtype: "bool", shape: [] } }, ({ g }) => ({
      y: ops.when(
        g,
        () => [ops.range(2)],
        () => [ops.range(2)],
      )[0]!,
    }));
    expect(() => ops.rewrite(gated, {})).toThrow(/When .* holds a graph of its own/);
  });
});
