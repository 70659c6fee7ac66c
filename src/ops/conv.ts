import { addDims, type Dim, dimsEqual, mulDims, type Shape, subDims, type Tensor } from "../graph/index.ts";
import { defineOp, type Op, shapeError } from "./define.ts";
import { node } from "./emission.ts";
import { reshape, slice, transpose } from "./movement.ts";
import { sum } from "./reduce.ts";

/** One number for every spatial axis, or one per axis. */
export type PerAxis = number | readonly number[];

export interface ConvOptions {
  bias?: Tensor;
  stride?: PerAxis;
  /** Zeros added on both sides of each spatial axis. */
  padding?: PerAxis;
  dilation?: PerAxis;
  /** Channels are cut into this many groups, each with kernels of its own. */
  groups?: number;
}

export interface ConvTransposeOptions extends ConvOptions {
  /** Added to one side of the output: a strided convolution maps several sizes onto one, and this says which was meant. */
  outputPadding?: PerAxis;
}

interface Window {
  stride: readonly number[];
  padding: readonly number[];
  dilation: readonly number[];
}
interface ConvAttrs extends Window {
  groups: number;
}
interface ConvTransposeAttrs extends ConvAttrs {
  outputPadding: readonly number[];
}
type ConvInputs = { x: Tensor; weight: Tensor; bias: Tensor | undefined };

/** What a window spans along an axis, gaps included. */
const reach = (kernel: Dim, dilation: number): Dim => addDims(mulDims(addDims(kernel, -1), dilation), 1);

/** How far a window can move along an axis. */
const room = (size: Dim, kernel: Dim, padding: number, dilation: number): Dim =>
  subDims(addDims(size, 2 * padding), reach(kernel, dilation));

/** The number of places a window takes along an axis; undefined where there is none, or where a symbol leaves it open. */
export function windowCount(size: Dim, kernel: Dim, stride: number, padding: number, dilation: number): Dim | undefined {
  const free = room(size, kernel, padding, dilation);
  if (typeof free === "number") return free < 0 ? undefined : Math.floor(free / stride) + 1;
  return stride === 1 ? addDims(free, 1) : undefined;
}

/** What a stride leaves unread at the end of an axis. */
export function windowRest(size: Dim, kernel: Dim, stride: number, padding: number, dilation: number): number {
  const free = room(size, kernel, padding, dilation);
  return typeof free === "number" ? free % stride : 0; // with a symbol in it the stride is 1
}

const onnxAttributes = ({ stride, padding, dilation, groups }: ConvAttrs) => ({
  strides: stride,
  pads: [...padding, ...padding],
  dilations: dilation,
  group: groups,
});

function checkOperands(name: string, { x, weight, bias }: ConvInputs, axes: number, channels: Dim, outChannels: Dim): void {
  const operands = { x, weight, bias };
  if (x.rank !== axes + 2 || weight.rank !== axes + 2) throw shapeError(name, operands, `x and the weight need ${axes + 2} axes`);
  if (x.dtype !== weight.dtype || (bias && bias.dtype !== x.dtype)) throw shapeError(name, operands, "the operands must have one dtype");
  if (!dimsEqual(x.shape[1]!, channels)) throw shapeError(name, operands, `x has ${x.shape[1]} channels and the weight takes ${channels}`);
  if (bias && (bias.rank !== 1 || !dimsEqual(bias.shape[0]!, outChannels)))
    throw shapeError(name, operands, `the bias must have one element for each of the ${outChannels} output channels`);
}

const convOp: Op<ConvInputs, ConvAttrs> = defineOp<ConvInputs, ConvAttrs>({
  name: "Conv",
  type: ({ x, weight, bias }, { stride, padding, dilation, groups }) => {
    const out = weight.shape[0]!;
    checkOperands("Conv", { x, weight, bias }, stride.length, mulDims(weight.shape[1] ?? 0, groups), out);
    if (typeof out === "number" && out % groups !== 0)
      throw shapeError("Conv", { x, weight }, `${out} output channels do not fall into ${groups} equal groups`);
    const spatial = stride.map((s, i) => {
      const count = windowCount(x.shape[i + 2]!, weight.shape[i + 2]!, s, padding[i]!, dilation[i]!);
      if (count === undefined)
        throw shapeError("Conv", { x, weight }, `the kernel does not fit spatial axis ${i}, or its stride needs a size in numbers`);
      return count;
    });
    return { dtype: x.dtype, shape: [x.shape[0]!, out, ...spatial] };
  },
  emit: ({ x, weight, bias }, attrs) => node("Conv", [x, weight, bias], onnxAttributes(attrs)),
  grad: ({ x, weight, bias }, dy, attrs) => {
    const outputPadding = attrs.stride.map((s, i) =>
      windowRest(x.shape[i + 2]!, weight.shape[i + 2]!, s, attrs.padding[i]!, attrs.dilation[i]!),
    );
    return {
      x: convTransposeOp({ x: dy, weight, bias: undefined }, { ...attrs, outputPadding }),
      weight: kernelGradient(x, dy, weight.shape, attrs),
      bias: bias && channelSums(dy),
    };
  },
});

const convTransposeOp: Op<ConvInputs, ConvTransposeAttrs> = defineOp<ConvInputs, ConvTransposeAttrs>({
  name: "ConvTranspose",
  type: ({ x, weight, bias }, { stride, padding, dilation, groups, outputPadding }) => {
    const out = mulDims(weight.shape[1] ?? 0, groups);
    checkOperands("ConvTranspose", { x, weight, bias }, stride.length, weight.shape[0]!, out);
    const channels = weight.shape[0]!;
    if (typeof channels === "number" && channels % groups !== 0)
      throw shapeError("ConvTranspose", { x, weight }, `${channels} input channels do not fall into ${groups} equal groups`);
    const spatial = stride.map((s, i) => {
      if (outputPadding[i]! >= Math.max(s, dilation[i]!))
        throw shapeError(
          "ConvTranspose",
          { x, weight },
          `output padding ${outputPadding[i]} must be smaller than the stride or the dilation`,
        );
      const size = addDims(
        mulDims(addDims(x.shape[i + 2]!, -1), s),
        addDims(reach(weight.shape[i + 2]!, dilation[i]!), outputPadding[i]! - 2 * padding[i]!),
      );
      if (typeof size === "number" && size < 1)
        throw shapeError("ConvTranspose", { x, weight }, `padding ${padding[i]} leaves nothing of spatial axis ${i}`);
      return size;
    });
    return { dtype: x.dtype, shape: [x.shape[0]!, out, ...spatial] };
  },
  emit: ({ x, weight, bias }, attrs) =>
    node("ConvTranspose", [x, weight, bias], { ...onnxAttributes(attrs), output_padding: attrs.outputPadding }),
  grad: ({ x, weight, bias }, dy, { outputPadding: _, ...attrs }) => ({
    x: convOp({ x: dy, weight, bias: undefined }, attrs),
    weight: kernelGradient(dy, x, weight.shape, attrs),
    bias: bias && channelSums(dy),
  }),
});

const channelSums = (dy: Tensor): Tensor => sum(dy, [0, ...dy.shape.slice(2).map((_, i) => i + 2)]);

/**
 * The gradient for the kernel is a convolution too, in which batch and channels change places and stride and dilation do:
 * `wide` is the operand on the large side, `narrow` the one on the small side.
 */
function kernelGradient(wide: Tensor, narrow: Tensor, shape: Shape, { stride, padding, dilation, groups }: ConvAttrs): Tensor {
  const [batch, channels, ...spatial] = wide.shape as [Dim, number, ...Dim[]];
  const axes = spatial.map((_, i) => i);
  // [batch, groups · c, …] → [c, groups · batch, …]: each group's channels meet only that group's kernels.
  const perGroup = channels / groups;
  const split = transpose(reshape(wide, [batch, groups, perGroup, ...spatial]), [2, 1, 0, ...axes.map((i) => i + 3)]);
  const x = reshape(split, [perGroup, mulDims(groups, batch), ...spatial]);
  const kernels = transpose(narrow, [1, 0, ...axes.map((i) => i + 2)]);
  const full = convOp({ x, weight: kernels, bias: undefined }, { stride: dilation, padding, dilation: stride, groups });
  // Where the stride left a rest of the wide side unread, the convolution finds kernel places that do not exist.
  const cropped = axes.reduce((t, i) => slice(t, i + 2, 0, shape[i + 2]!), full);
  return transpose(cropped, [1, 0, ...axes.map((i) => i + 2)]);
}

/** Checks and spreads an option over the spatial axes. */
export function perAxis(
  name: string,
  option: PerAxis,
  axes: number,
  least: number,
  operands: Record<string, Tensor | undefined>,
): readonly number[] {
  const list = typeof option === "number" ? Array<number>(axes).fill(option) : option;
  if (list.length !== axes || list.some((v) => !Number.isInteger(v) || v < least))
    throw shapeError(name, operands, `[${list}] must be ${axes} integer${axes > 1 ? "s" : ""} ≥ ${least}`);
  return list;
}

function convolution(axes: number): (x: Tensor, weight: Tensor, options?: ConvOptions) => Tensor {
  return (x, weight, { bias, stride = 1, padding = 0, dilation = 1, groups = 1 } = {}) => {
    const spread = (option: PerAxis, least: number) => perAxis("Conv", option, axes, least, { x, weight });
    const attrs = { stride: spread(stride, 1), padding: spread(padding, 0), dilation: spread(dilation, 1), groups };
    return convOp({ x, weight, bias }, attrs);
  };
}

function transposedConvolution(axes: number): (x: Tensor, weight: Tensor, options?: ConvTransposeOptions) => Tensor {
  return (x, weight, { bias, stride = 1, padding = 0, dilation = 1, groups = 1, outputPadding = 0 } = {}) => {
    const spread = (option: PerAxis, least: number) => perAxis("ConvTranspose", option, axes, least, { x, weight });
    const window = { stride: spread(stride, 1), padding: spread(padding, 0), dilation: spread(dilation, 1) };
    return convTransposeOp({ x, weight, bias }, { ...window, groups, outputPadding: spread(outputPadding, 0) });
  };
}

/** `x` [batch, in, time] with kernels `weight` [out, in/groups, width] → [batch, out, time′]. */
export const conv1d = convolution(1);
/** `x` [batch, in, height, width] with kernels `weight` [out, in/groups, h, w] → [batch, out, height′, width′]. */
export const conv2d = convolution(2);
/** The transpose of {@link conv1d}: `x` [batch, in, time] with `weight` [in, out/groups, width] → [batch, out, time′]. */
export const convTranspose1d = transposedConvolution(1);
/** The transpose of {@link conv2d}: `x` [batch, in, height, width] with `weight` [in, out/groups, h, w] → [batch, out, height′, width′]. */
export const convTranspose2d = transposedConvolution(2);
