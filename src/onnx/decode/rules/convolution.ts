import type { Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import type { NodeContext, Rules } from "../context.ts";

interface Window {
  axes: number;
  kernel: readonly number[];
  stride: readonly number[];
  dilation: readonly number[];
  /** Before each axis, then after each. */
  pads: readonly number[];
}

/** Strides, dilations and pads, with `auto_pad` worked out. */
function window(n: NodeContext, x: Tensor, kernel: readonly number[]): Window {
  const axes = kernel.length;
  const stride = n.ints("strides") ?? kernel.map(() => 1);
  const dilation = n.ints("dilations") ?? kernel.map(() => 1);
  const auto = n.string("auto_pad", "NOTSET");
  if (axes !== x.rank - 2 || axes < 1 || axes > 2)
    throw n.fail(`windows over ${axes} of ${x.rank - 2} axes are not supported, only over one or two`);
  let pads = n.ints("pads") ?? Array<number>(2 * axes).fill(0);
  if (auto === "SAME_UPPER" || auto === "SAME_LOWER") {
    const total = kernel.map((k, i) => {
      const size = x.shape[i + 2];
      if (typeof size !== "number") throw n.fail(`auto_pad ${auto} needs sizes that are numbers`, "onnx-dynamic-shape");
      return Math.max(0, (Math.ceil(size / stride[i]!) - 1) * stride[i]! + dilation[i]! * (k - 1) + 1 - size);
    });
    const smaller = total.map((t) => Math.floor(t / 2));
    const larger = total.map((t) => Math.ceil(t / 2));
    pads = auto === "SAME_UPPER" ? [...smaller, ...larger] : [...larger, ...smaller];
  }
  return { axes, kernel, stride, dilation, pads };
}

/** `x` padded where before and after differ, and the symmetric padding that is left to the operator. */
function padded(x: Tensor, { axes, pads }: Window, value = 0): { x: Tensor; padding: readonly number[] } {
  const before = pads.slice(0, axes);
  if (before.every((p, i) => p === pads[axes + i])) return { x, padding: before };
  return { x: before.reduce((y, p, i) => ops.pad(y, i + 2, p, pads[axes + i]!, value), x), padding: before.map(() => 0) };
}

function conv(n: NodeContext): Tensor {
  const weight = n.tensor(1);
  const w = window(n, n.tensor(0), weight.shape.slice(2) as number[]);
  const { x, padding } = padded(n.tensor(0), w);
  const bias = n.optional(2);
  const options = { stride: w.stride, dilation: w.dilation, padding, groups: n.int("group", 1), ...(bias && { bias }) };
  return (w.axes === 1 ? ops.conv1d : ops.conv2d)(x, weight, options);
}

function convTranspose(n: NodeContext): Tensor {
  const [x, weight, bias] = [n.tensor(0), n.tensor(1), n.optional(2)];
  const w = window(n, x, weight.shape.slice(2) as number[]);
  const padding = w.pads.slice(0, w.axes);
  if (padding.some((p, i) => p !== w.pads[w.axes + i]) || n.ints("output_shape"))
    throw n.fail("uneven pads and output_shape are not supported");
  const outputPadding = n.ints("output_padding") ?? padding.map(() => 0);
  const options = { stride: w.stride, dilation: w.dilation, padding, outputPadding, groups: n.int("group", 1), ...(bias && { bias }) };
  return (w.axes === 1 ? ops.convTranspose1d : ops.convTranspose2d)(x, weight, options);
}

function pool(n: NodeContext, kind: "max" | "average"): Tensor {
  if (n.wants(1)) throw n.fail("the indices of the largest elements are not supported");
  const kernel = n.ints("kernel_shape") ?? [];
  const w = window(n, n.tensor(0), kernel);
  if (n.int("ceil_mode", 0) === 1 || w.dilation.some((d) => d !== 1)) throw n.fail("ceil_mode and dilations are not supported");
  const counted = n.int("count_include_pad", 0) === 1;
  const uneven = w.pads.slice(0, w.axes).some((p, i) => p !== w.pads[w.axes + i]);
  if (uneven && kind === "average" && !counted) throw n.fail("pads that differ between both ends need count_include_pad");
  const { x, padding } = padded(n.tensor(0), w, kind === "max" ? Number.NEGATIVE_INFINITY : 0);
  const options = { stride: w.stride, padding };
  if (kind === "max") return (w.axes === 1 ? ops.maxPool1d : ops.maxPool2d)(x, kernel, options);
  return (w.axes === 1 ? ops.averagePool1d : ops.averagePool2d)(x, kernel, { ...options, countPadding: counted });
}

const places = (x: Tensor): number[] => x.shape.slice(2).map((_, i) => i + 2);

export const convolution: Rules = {
  Conv: conv,
  ConvTranspose: convTranspose,
  MaxPool: (n) => pool(n, "max"),
  AveragePool: (n) => pool(n, "average"),
  GlobalAveragePool: (n) => ops.mean(n.tensor(0), places(n.tensor(0)), { keepDims: true }),
  GlobalMaxPool: (n) => ops.max(n.tensor(0), places(n.tensor(0)), { keepDims: true }),
};
