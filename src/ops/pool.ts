import { addDims, type Dim, mulDims, type Shape, sizeOf, type Tensor } from "../graph/index.ts";
import { conv1d, conv2d, convTranspose1d, convTranspose2d, type PerAxis, perAxis, windowCount, windowRest } from "./conv.ts";
import { defineOp, shapeError } from "./define.ts";
import { div, mul } from "./elementwise.ts";
import { dims, int64s, node, type Ref, result, scalar } from "./emission.ts";
import { scatterAdd } from "./indexing.ts";
import { fill, reshape } from "./movement.ts";

export interface PoolOptions {
  /** Default: the kernel's size, so that windows do not overlap. */
  stride?: PerAxis;
  /** Places added on both sides; a maximum never lies there. At most half the kernel. */
  padding?: PerAxis;
}

export interface AveragePoolOptions extends PoolOptions {
  /** Divide by the whole window, padding included. Default true. */
  countPadding?: boolean;
}

interface PoolAttrs {
  kernel: readonly number[];
  stride: readonly number[];
  padding: readonly number[];
}

function pooledShape(name: string, x: Tensor, { kernel, stride, padding }: PoolAttrs): Dim[] {
  if (x.rank !== kernel.length + 2) throw shapeError(name, { x }, `x needs ${kernel.length + 2} axes: batch, channels, then space`);
  const spatial = kernel.map((k, i) => {
    if (padding[i]! * 2 > k) throw shapeError(name, { x }, `padding ${padding[i]} is more than half the kernel ${k}`);
    const count = windowCount(x.shape[i + 2]!, k, stride[i]!, padding[i]!, 1);
    if (count === undefined)
      throw shapeError(name, { x }, `a window of ${k} does not fit spatial axis ${i}, or its stride needs a size in numbers`);
    return count;
  });
  return [...x.shape.slice(0, 2), ...spatial];
}

const onnxAttributes = ({ kernel, stride, padding }: PoolAttrs) => ({
  kernel_shape: kernel,
  strides: stride,
  pads: [...padding, ...padding],
});

const maxPoolOp = defineOp<{ x: Tensor }, PoolAttrs>({
  name: "MaxPool",
  type: ({ x }, attrs) => {
    const shape = pooledShape("MaxPool", x, attrs);
    return [
      { dtype: x.dtype, shape },
      { dtype: "int64", shape },
    ];
  },
  // The second result says where in the whole of x each maximum lies.
  emit: ({ x }, attrs, { inputs, outputs, provider }) => {
    if (provider === "webgpu") return [node("MaxPool", [x], onnxAttributes(attrs)), placesOfMaxima(x, inputs.x, outputs[1]!.shape, attrs)];
    const y = node("MaxPool", [x], onnxAttributes(attrs), { outputs: 2 });
    return [y, result(y, 1)];
  },
  grad: ({ x, outputs }, dy) => ({ x: reshape(scatterAdd(reshape(dy, [-1]), reshape(outputs[1]!, [-1]), sizeOf(x.shape)), x.shape) }),
});

/** The second result of MaxPool, which the WebGPU provider lacks: the windows' elements are compared one place of the kernel after the other. */
function placesOfMaxima(x: Ref, { shape, dtype }: Tensor, out: Shape, { kernel, stride, padding }: PoolAttrs): Ref {
  const scalarOf = (size: Dim) => node("Reshape", [dims([size]), int64s([])]);
  const all = node("Range", [scalarOf(0), scalarOf(sizeOf(shape)), scalarOf(1)]);
  const places = node("Reshape", [node("Cast", [all], { to: { dtype: "int32" } }), dims(shape)]);
  const pads = int64s([0, 0, ...padding, 0, 0, ...padding]);
  const paddedX = node("Pad", [x, pads, scalar(dtype, Number.NEGATIVE_INFINITY)]);
  const paddedPlaces = node("Pad", [places, pads]);
  const axes = int64s(kernel.map((_, i) => i + 2));
  const at = (t: Ref, offset: readonly number[]) => {
    const ends = offset.map((o, i) => addDims(mulDims(addDims(out[i + 2]!, -1), stride[i]!), o + 1));
    return node("Slice", [t, int64s(offset), dims(ends), axes, int64s(stride)]);
  };
  const offsets = kernel.reduce<number[][]>((list, k) => list.flatMap((o) => Array.from({ length: k }, (_, i) => [...o, i])), [[]]);
  let [best, place]: [Ref, Ref] = [at(paddedX, offsets[0]!), at(paddedPlaces, offsets[0]!)];
  for (const offset of offsets.slice(1)) {
    const candidate = at(paddedX, offset);
    const larger = node("Greater", [candidate, best]);
    place = node("Where", [larger, at(paddedPlaces, offset), place]);
    best = node("Where", [larger, candidate, best]);
  }
  return node("Cast", [place], { to: { dtype: "int64" } });
}

const averagePoolOp = defineOp<{ x: Tensor }, PoolAttrs & { countPadding: boolean }>({
  name: "AveragePool",
  type: ({ x }, attrs) => ({ dtype: x.dtype, shape: pooledShape("AveragePool", x, attrs) }),
  emit: ({ x }, attrs) => node("AveragePool", [x], { ...onnxAttributes(attrs), count_include_pad: attrs.countPadding ? 1 : 0 }),
  // Each output's gradient is spread evenly over its window: a transposed convolution with a kernel of ones, channel by channel.
  grad: ({ x }, dy, { kernel, stride, padding, countPadding }) => {
    const spatial = x.shape.slice(2);
    const ones = fill([1, 1, ...kernel], 1, x.dtype);
    const [convolve, spreadOut] = kernel.length === 1 ? [conv1d, convTranspose1d] : [conv2d, convTranspose2d];
    const count = kernel.reduce((n, k) => n * k, 1);
    const share = countPadding ? mul(dy, 1 / count) : div(dy, convolve(fill([1, 1, ...spatial], 1, x.dtype), ones, { stride, padding }));
    const outputPadding = kernel.map((k, i) => windowRest(spatial[i]!, k, stride[i]!, padding[i]!, 1));
    return { x: reshape(spreadOut(reshape(share, [-1, 1, ...dy.shape.slice(2)]), ones, { stride, padding, outputPadding }), x.shape) };
  },
});

function poolAttrs(
  name: string,
  x: Tensor,
  axes: number,
  kernelSize: PerAxis,
  { stride = kernelSize, padding = 0 }: PoolOptions,
): PoolAttrs {
  const spread = (option: PerAxis, least: number) => perAxis(name, option, axes, least, { x });
  return { kernel: spread(kernelSize, 1), stride: spread(stride, 1), padding: spread(padding, 0) };
}

const maxPool =
  (axes: number) =>
  (x: Tensor, kernelSize: PerAxis, options: PoolOptions = {}): Tensor =>
    maxPoolOp({ x }, poolAttrs("MaxPool", x, axes, kernelSize, options));

const averagePool =
  (axes: number) =>
  (x: Tensor, kernelSize: PerAxis, options: AveragePoolOptions = {}): Tensor =>
    averagePoolOp({ x }, { ...poolAttrs("AveragePool", x, axes, kernelSize, options), countPadding: options.countPadding ?? true });

/** The largest element of each window: `x` [batch, channels, time]. Of equals the first one gets the gradient. */
export const maxPool1d = maxPool(1);
/** The largest element of each window: `x` [batch, channels, height, width]. */
export const maxPool2d = maxPool(2);
/** The mean of each window: `x` [batch, channels, time]. */
export const averagePool1d = averagePool(1);
/** The mean of each window: `x` [batch, channels, height, width]. */
export const averagePool2d = averagePool(2);
