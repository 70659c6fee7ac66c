import { describe } from "vitest";
import { checkOp, checkRejects, checkSymbolic, sample, type Values, values } from "../../tests/ops/harness.ts";
import * as ops from "./index.ts";

interface Setting {
  stride?: [number, number];
  padding?: [number, number];
  dilation?: [number, number];
  groups?: number;
}

/** Every product of a convolution: (batch, output channel, output place) ← (input channel, input place), weight index. */
function* products(
  x: readonly number[],
  w: readonly number[],
  out: readonly number[],
  { stride = [1, 1], padding = [0, 0], dilation = [1, 1], groups = 1 }: Setting,
) {
  const [N, C, H, W] = x as [number, number, number, number];
  const [O, I, KH, KW] = w as [number, number, number, number];
  const [, , OH, OW] = out as [number, number, number, number];
  for (let n = 0; n < N; n++)
    for (let o = 0; o < O; o++)
      for (let i = 0; i < I; i++)
        for (let a = 0; a < OH; a++)
          for (let b = 0; b < OW; b++)
            for (let k = 0; k < KH; k++)
              for (let l = 0; l < KW; l++) {
                const c = Math.floor(o / (O / groups)) * I + i;
                const h = a * stride[0] + k * dilation[0] - padding[0];
                const v = b * stride[1] + l * dilation[1] - padding[1];
                if (h < 0 || h >= H || v < 0 || v >= W) continue;
                yield {
                  from: ((n * C + c) * H + h) * W + v,
                  to: ((n * O + o) * OH + a) * OW + b,
                  weight: ((o * I + i) * KH + k) * KW + l,
                  o,
                  c,
                };
              }
}

const convolved = (x: Values, w: Values, bias: Values, shape: number[], setting: Setting): number[] => {
  const plane = shape[2]! * shape[3]!;
  const y = Array.from({ length: shape.reduce((p, d) => p * d) }, (_, i) => bias.data[Math.floor(i / plane) % shape[1]!]!);
  for (const p of products(x.shape, w.shape, shape, setting)) y[p.to]! += x.data[p.from]! * w.data[p.weight]!;
  return y;
};

const transposed = (x: Values, w: Values, bias: Values, shape: number[], setting: Setting): number[] => {
  const plane = shape[2]! * shape[3]!;
  const y = Array.from({ length: shape.reduce((p, d) => p * d) }, (_, i) => bias.data[Math.floor(i / plane) % shape[1]!]!);
  for (const p of products(shape, w.shape, x.shape, setting)) y[p.from]! += x.data[p.to]! * w.data[p.weight]!;
  return y;
};

const flat = (v: Values): Values => values([v.shape[0]!, v.shape[1]!, v.shape[3]!], v.data);

describe("conv2d", () => {
  const table: [string, number[], number[], number[], Setting][] = [
    ["plain", [2, 2, 4, 3], [3, 2, 2, 2], [2, 3, 3, 2], {}],
    ["stride that leaves a rest, padding", [1, 2, 5, 4], [2, 2, 3, 2], [1, 2, 3, 2], { stride: [2, 3], padding: [1, 1] }],
    ["dilation", [1, 1, 5, 4], [2, 1, 2, 2], [1, 2, 3, 4], { dilation: [2, 2], padding: [0, 1] }],
    ["groups", [2, 4, 3, 3], [6, 2, 2, 2], [2, 6, 2, 2], { groups: 2 }],
    ["depthwise, strided and dilated", [1, 3, 6, 5], [3, 1, 2, 2], [1, 3, 2, 2], { groups: 3, stride: [2, 2], dilation: [2, 1] }],
  ];
  for (const [name, xs, ws, ys, setting] of table) {
    const inputs = { x: sample(xs, -1, 1, 1), weight: sample(ws, -1, 1, 2), bias: sample([ws[0]!], -1, 1, 3) };
    checkOp(name, {
      inputs,
      fn: ({ x, weight, bias }) => ops.conv2d(x, weight, { ...setting, bias }),
      expected: convolved(inputs.x, inputs.weight, inputs.bias, ys, setting),
    });
  }
  const small = { x: sample([1, 2, 4, 3]), weight: sample([2, 1, 2, 2], -1, 1, 2) };
  checkOp("second derivative", {
    inputs: small,
    fn: ({ x, weight }) => ops.conv2d(x, weight, { groups: 2, stride: [2, 1] }),
    expected: convolved(small.x, small.weight, values([2], [0, 0]), [1, 2, 2, 2], { groups: 2, stride: [2, 1] }),
    second: true,
  });
  const x = ["float32", 1, 4, 5, 5] as const;
  checkRejects("channels", { x, w: ["float32", 2, 3, 2, 2] }, (i) => ops.conv2d(i.x, i.w), /Conv.*x has 4 channels and the weight takes 3/);
  checkRejects(
    "groups",
    { x, w: ["float32", 3, 2, 2, 2] },
    (i) => ops.conv2d(i.x, i.w, { groups: 2 }),
    /3 output channels do not fall into 2/,
  );
  checkRejects("size", { x, w: ["float32", 2, 4, 6, 2] }, (i) => ops.conv2d(i.x, i.w), /does not fit spatial axis 0/);
  checkRejects("ranks", { x, w: ["float32", 2, 4, 2] }, (i) => ops.conv2d(i.x, i.w), /need 4 axes/);
  checkRejects(
    "bias",
    { x, w: ["float32", 2, 4, 2, 2], b: ["float32", 4] },
    (i) => ops.conv2d(i.x, i.w, { bias: i.b }),
    /bias must have one element for each of the 2/,
  );
  checkRejects("stride", { x, w: ["float32", 2, 4, 2, 2] }, (i) => ops.conv2d(i.x, i.w, { stride: [1, 0] }), /must be 2 integers ≥ 1/);
  checkSymbolic("conv2d", {
    inputs: { x: ["b", 2, "h", 4], w: [3, 2, 2, 2] },
    sizes: [
      { b: 1, h: 3 },
      { b: 2, h: 5 },
    ],
    fn: (i) => ops.conv2d(i.x, i.w, { padding: 1 }),
  });
});

describe("conv1d", () => {
  const inputs = { x: sample([2, 4, 1, 7], -1, 1, 1), weight: sample([6, 2, 1, 3], -1, 1, 2), bias: sample([6], -1, 1, 3) };
  checkOp("stride, padding, groups", {
    inputs: { x: flat(inputs.x), weight: flat(inputs.weight), bias: inputs.bias },
    fn: ({ x, weight, bias }) => ops.conv1d(x, weight, { bias, stride: 2, padding: 1, groups: 2 }),
    expected: convolved(inputs.x, inputs.weight, inputs.bias, [2, 6, 1, 4], { stride: [1, 2], padding: [0, 1], groups: 2 }),
  });
  checkRejects("conv1d", { x: ["float32", 1, 2, 4], w: ["float32", 2, 2, 5] }, (i) => ops.conv1d(i.x, i.w), /does not fit spatial axis 0/);
});

describe("convTranspose", () => {
  const table: [string, number[], number[], number[], Setting & { outputPadding?: [number, number] }][] = [
    ["plain", [2, 2, 2, 3], [2, 3, 2, 2], [2, 3, 3, 4], {}],
    [
      "stride, padding, output padding",
      [1, 2, 2, 3],
      [2, 2, 3, 2],
      [1, 2, 4, 8],
      { stride: [2, 3], padding: [1, 1], outputPadding: [1, 2] },
    ],
    ["groups and dilation", [1, 4, 2, 2], [4, 2, 2, 2], [1, 4, 4, 3], { groups: 2, dilation: [2, 1] }],
  ];
  for (const [name, xs, ws, ys, setting] of table) {
    const inputs = { x: sample(xs, -1, 1, 1), weight: sample(ws, -1, 1, 2), bias: sample([ys[1]!], -1, 1, 3) };
    checkOp(name, {
      inputs,
      fn: ({ x, weight, bias }) => ops.convTranspose2d(x, weight, { ...setting, bias }),
      expected: transposed(inputs.x, inputs.weight, inputs.bias, ys, setting),
    });
  }
  const inputs = { x: sample([1, 2, 1, 3], -1, 1, 1), weight: sample([2, 2, 1, 3], -1, 1, 2), bias: sample([2]) };
  checkOp("of one axis", {
    inputs: { x: flat(inputs.x), weight: flat(inputs.weight), bias: inputs.bias },
    fn: ({ x, weight, bias }) => ops.convTranspose1d(x, weight, { bias, stride: 2, padding: 1, outputPadding: 1 }),
    expected: transposed(inputs.x, inputs.weight, inputs.bias, [1, 2, 1, 6], { stride: [1, 2], padding: [0, 1] }),
    second: true,
  });
  const x = ["float32", 1, 4, 5, 5] as const;
  checkRejects(
    "convTranspose2d",
    { x, w: ["float32", 3, 2, 2, 2] },
    (i) => ops.convTranspose2d(i.x, i.w),
    /x has 4 channels and the weight takes 3/,
  );
  checkRejects(
    "output padding",
    { x, w: ["float32", 4, 2, 2, 2] },
    (i) => ops.convTranspose2d(i.x, i.w, { outputPadding: 1 }),
    /must be smaller than the stride/,
  );
});
