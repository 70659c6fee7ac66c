/** What a scope changes about the modules traced in it: chunks with draws of their own, taps, adapters passed over. */
import { expect, test } from "vitest";
import { device } from "../../tests/ops/providers.ts";
import { grad } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import { TokenEmbedding } from "../methods/adapters/token-embedding.ts";
import { add, countMatmulFlops, inChunks, linear, sum } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { dropout, Embedding, floats, inTraining, Module, modulesInChunks, Parameter, tapped, withoutAdapters } from "./index.ts";

const cpu = await device("cpu");
const numbers = (shape: number[], data: number[]) => hostTensor("float32", shape, Float32Array.from(data));
const int = (value: number) => hostTensor("int32", [], Int32Array.of(value));

async function run(feeds: Parameters<typeof trace>[0], fn: (inputs: Record<string, Tensor>) => Record<string, Tensor>, more = {}) {
  const program = await cpu.compile(trace(feeds, fn as never));
  const out = await program.run({ ...feeds, ...more } as never);
  await program.dispose();
  return Object.fromEntries(Object.entries(out).map(([name, t]) => [name, Array.from(t.data as Float32Array)]));
}

test("chunks draw different random numbers, and the same ones again for their gradients", async () => {
  const x = numbers([6, 40], new Array(240).fill(1));
  const random = { "random.seed": int(3), "random.step": int(5) };
  const { y, d } = await run(
    { x },
    ({ x }) =>
      inTraining(() => {
        const [y] = modulesInChunks({ x: x! }, 2, (part) => [dropout(part.x!, 0.5)]);
        return { y: y!, d: grad(sum(y!), [x!])[0]! };
      }),
    random,
  );
  expect(new Set(y)).toEqual(new Set([0, 2]));
  expect(d).toEqual(y); // of ones, the slope is the value
  const chunks = [0, 1, 2].map((i) => y!.slice(i * 80, (i + 1) * 80).join());
  expect(new Set(chunks).size).toBe(3);
});

/** x + weight, and perhaps another module's work before. */
class Shift extends Module {
  readonly weight: Parameter;
  readonly base: Shift | undefined;

  constructor(by: number, base?: Shift) {
    super();
    this.weight = new Parameter([1], () => floats([1], Float32Array.of(by)));
    this.base = base;
  }

  override get standsOn(): Shift | undefined {
    return this.base;
  }

  forward(x: Tensor): Tensor {
    return add(this.base ? this.base.forward(x) : x, this.weight.value);
  }
}

class Two extends Module {
  readonly layers: Shift[];

  constructor(...layers: Shift[]) {
    super();
    this.layers = layers;
    this.assignNames();
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((y, layer) => layer.forward(y), x);
  }
}

test("without adapters the base runs, and with them both in the same graph", async () => {
  const model = new Two(new Shift(100, new Shift(1)), new Shift(10));
  const out = await run({ x: numbers([1], [0]) }, ({ x }) => ({
    adapted: model.forward(x!),
    base: withoutAdapters(() => model.forward(x!)),
    again: model.forward(x!),
  }));
  expect(out).toEqual({ adapted: [111], base: [11], again: [111] });
});

test("taps read what a module returned, an adapter's output in its place; a path where nothing ran is told", async () => {
  const model = new Two(new Shift(100, new Shift(1)), new Shift(10));
  const out = await run({ x: numbers([1], [0]) }, ({ x }) => {
    const { result, outputs } = tapped(["layers.1", "layers.0"], () => model.forward(x!));
    return { result, last: outputs[0] as Tensor, first: outputs[1] as Tensor };
  });
  expect(out).toEqual({ result: [111], last: [111], first: [101] });
  expect(() => trace({ x: numbers([1], [0]) }, ({ x }) => tapped(["layers.2"], () => ({ y: model.forward(x!) })).result)).toThrow(
    /No module "layers.2" ran/,
  );
});

test("a head that shares an adapted table reads the base's rows without adapters", async () => {
  const base = new Embedding(3, 1, { init: (shape) => floats(shape, Float32Array.of(1, 2, 3)) });
  const adapted = new TokenEmbedding(base, [1]);
  base.weight.name = "weight";
  adapted.token_adapter.trainable_tokens_delta.name = "rows";
  adapted.token_adapter.trainable_tokens_delta.storage = floats([1, 1], Float32Array.of(50));
  const out = await run({ x: numbers([1], [0]) }, ({ x }) => ({
    adapted: add(adapted.table, x!),
    base: withoutAdapters(() => add(adapted.table, x!)),
  }));
  expect(out).toEqual({ adapted: [1, 50, 3], base: [1, 2, 3] });
});

test("products in chunks are counted for every chunk, and once more each for the gradient", () => {
  const types = { x: { dtype: "float32", shape: [6, 4] }, w: { dtype: "float32", shape: [5, 4] } } as const;
  const forward = countMatmulFlops(trace(types, ({ x, w }) => ({ y: inChunks({ x }, 2, (part) => [linear(part.x!, w)])[0]! })));
  expect(forward).toBe(2 * 6 * 4 * 5);
  const both = countMatmulFlops(
    trace(types, ({ x, w }) => {
      const [y] = inChunks({ x }, 2, (part) => [linear(part.x!, w)]);
      const [dx] = grad(sum(y!), [x]);
      return { y: y!, dx: dx! };
    }),
  );
  // The gradient of a product does not read the product itself: it is not computed again.
  expect(both).toBe(2 * forward);
});
