import { expect, test } from "vitest";
import { bools, host, numbers, values, vector } from "../../tests/ops/harness.ts";
import { type Tensor, trace } from "../graph/index.ts";
import * as ops from "../ops/index.ts";
import { cpu } from "../runtime/node.ts";
import { grad, rematerialise } from "./index.ts";

const types = {
  x: { dtype: "float32", shape: [4] },
  open: { dtype: "bool", shape: [] },
  seed: { dtype: "int32", shape: [] },
} as const;
type Inputs = Record<keyof typeof types, Tensor>;
type Block = (x: Tensor, inputs: Inputs) => Tensor;
const feeds = { x: vector(0.5, -1, 2, 0.1), open: bools([], 1), seed: values([], [7], "int32") };

/** Two blocks and the gradient of Σ y²: the results, and the operators as ONNX Runtime ran them. */
async function run(block: Block, again: boolean, fed = feeds) {
  const traced = trace(types, (inputs) => {
    const through = (x: Tensor) => (again ? rematerialise(() => block(x, inputs)) : block(x, inputs));
    const y = through(through(inputs.x));
    return { y, dx: grad(ops.sum(ops.mul(y, y)), [inputs.x])[0]! };
  });
  const device = cpu({ threads: 1 });
  device.startProfile();
  const program = await device.compile(traced);
  const out = await program.run(Object.fromEntries(Object.entries(fed).map(([name, v]) => [name, host(v, "float32")])));
  const [profile] = await device.endProfile();
  await device.dispose();
  return { results: Object.values(out).map(numbers), ran: profile!.operators.map(({ operator }) => operator) };
}

const count = (ran: readonly string[], op: string) => ran.filter((name) => name === op).length;

test("blocks run again just before their gradients, to the same bits", async () => {
  const block: Block = (x) => ops.tanh(ops.sqrt(ops.exp(x)));
  const [kept, again] = [await run(block, false), await run(block, true)];
  expect(again.results).toEqual(kept.results);
  expect(count(kept.ran, "Exp")).toBe(2);
  // A subtraction is part of the gradient of tanh alone.
  const main = (ran: readonly string[]) => ran.filter((op) => ["Exp", "Sqrt", "Tanh", "Sub"].includes(op)).join(" ");
  expect(main(again.ran)).toBe("Exp Sqrt Tanh Exp Sqrt Tanh Exp Sqrt Tanh Sub Exp Sqrt Tanh Sub");
});

test("random numbers are drawn again as they were", async () => {
  const block: Block = (x, { seed }) => {
    const dropped = ops.dropout(ops.mul(x, x), 0.5, { seed, step: seed });
    return ops.add(ops.exp(dropped), x);
  };
  const [kept, again] = [await run(block, false), await run(block, true)];
  expect(again.results).toEqual(kept.results);
  // Each block's mask is made twice: it is not kept either.
  expect(count(again.ran, "Less")).toBe(2 * count(kept.ran, "Less"));
});

test.each([0, 1])("a gate inside a block (open: %s)", async (open) => {
  const block: Block = (x, { open: gate }) => {
    const y = ops.exp(x);
    const [z] = ops.when(
      gate,
      () => [ops.mul(ops.sin(y), x)],
      () => [ops.mul(y, y)],
    );
    return ops.sin(z!);
  };
  const fed = { ...feeds, open: bools([], open) };
  expect((await run(block, true, fed)).results).toEqual((await run(block, false, fed)).results);
});

test("a block within a block is part of it; what both read from outside counts for each", async () => {
  const block: Block = (x, { x: first }) => {
    const inner = rematerialise(() => ops.exp(ops.mul(x, first)));
    return ops.sin(ops.add(inner, first));
  };
  const flat: Block = (x, { x: first }) => ops.sin(ops.add(ops.exp(ops.mul(x, first)), first));
  expect((await run(block, true)).results).toEqual((await run(flat, false)).results);
});

test("weights are read as they are, and what follows from whole numbers alone is kept", async () => {
  const block: Block = (x) => ops.mul(ops.sin(ops.exp(x)), ops.exp(ops.cast(ops.range(4), "float32")));
  const { ran } = await run(block, true);
  // Of x in each block forward and backward; of the numbers once.
  expect(count(ran, "Exp")).toBeLessThanOrEqual(5);
});
