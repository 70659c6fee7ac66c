import { describe, expect, test } from "vitest";
import { type Tensor, trace } from "../graph/index.ts";
import { type HostTensor, hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { Conv1d, Conv2d, constantFill, floats, type Linear, MultiHeadAttention, multiHeadAttention } from "./index.ts";

const device = cpu({ threads: 1 });
const f32 = (shape: number[], ...values: number[]) => hostTensor("float32", shape, Float32Array.from(values));

async function computed(feeds: Record<string, HostTensor>, fn: (inputs: Record<string, Tensor>) => Tensor): Promise<number[]> {
  const program = await device.compile(trace(feeds, (inputs) => ({ y: fn(inputs) })));
  return Array.from((await program.run(feeds)).y!.data as Float32Array);
}

/** Projections that change nothing. */
function identity(attention: MultiHeadAttention, hidden: number): MultiHeadAttention {
  const diagonal = floats(
    [hidden, hidden],
    Float32Array.from({ length: hidden ** 2 }, (_, i) => (i % (hidden + 1) === 0 ? 1 : 0)),
  );
  for (const layer of [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj])
    (layer as Linear).weight.storage = diagonal;
  return attention.assignNames();
}

describe("attention with several heads", () => {
  const init = constantFill(0);
  // Two heads of one element: the second sees equal scores, the first prefers large keys.
  const x = f32([1, 2, 2], 0, 0, Math.LN2, 4);

  test("each head mixes its own part: by hand", async () => {
    const [a, b, c, d] = await computed({ x }, ({ x }) => multiHeadAttention(x!, x!, x!, 2));
    // Head 1, token 1: scores 0, so the mean. Token 2: scores 0 and ln²2.
    const weight = Math.exp(Math.LN2 ** 2) / (1 + Math.exp(Math.LN2 ** 2));
    expect(a).toBeCloseTo(Math.LN2 / 2, 5);
    expect(c).toBeCloseTo(weight * Math.LN2, 5);
    // Head 2, token 1: scores 0; token 2: scores 0 and 16.
    expect(b).toBeCloseTo(2, 5);
    expect(d).toBeCloseTo(4 / (1 + Math.exp(-16)), 5);
  });

  test("by default the tokens see themselves; given keys and values they see those, as far as the mask lets them", async () => {
    const attention = identity(new MultiHeadAttention(2, 2, { init }), 2);
    expect(await computed({ x }, ({ x }) => attention.forward(x!))).toEqual(
      await computed({ x }, ({ x }) => multiHeadAttention(x!, x!, x!, 2)),
    );
    const other = f32([1, 3, 2], 5, 6, 7, 8, 100, 100);
    const mask = f32([3], -1e30, 0, -1e30);
    const seen = await computed({ x, other, mask }, (i) => attention.forward(i.x!, [attention.keyValues(i.other!)], i.mask));
    expect(seen).toEqual([7, 8, 7, 8]);
  });

  test("keys may have no bias", () => {
    const names = (keyBias?: boolean) => Array.from(new MultiHeadAttention(2, 1, { init, keyBias }).namedParameters(), ([name]) => name);
    expect(names()).toContain("k_proj.bias");
    expect(names(false)).not.toContain("k_proj.bias");
    expect(names(false)).toHaveLength(7);
  });
});

describe("convolutions", () => {
  test("of one axis: stride, padding and bias, by hand", async () => {
    const conv = new Conv1d(1, 1, { init: constantFill(1), kernel: 3, stride: 2, padding: 1 }).assignNames();
    conv.bias!.storage = floats([1], Float32Array.of(10));
    // 0 1 2 3 4 0 in windows of three, every second.
    expect(await computed({ x: f32([1, 1, 4], 1, 2, 3, 4) }, ({ x }) => conv.forward(x!))).toEqual([13, 19]);
  });

  test("of two axes: as large steps as the kernel cut an image into patches", async () => {
    const conv = new Conv2d(1, 1, { init: constantFill(1), kernel: 2, stride: 2, bias: false }).assignNames();
    expect(conv.bias).toBeUndefined();
    expect(conv.weight.shape).toEqual([1, 1, 2, 2]);
    expect(await computed({ x: f32([1, 1, 2, 4], 1, 2, 3, 4, 5, 6, 7, 8) }, ({ x }) => conv.forward(x!))).toEqual([14, 22]);
  });
});
