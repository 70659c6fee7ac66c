import type { Tensor } from "../graph/index.ts";
import { conv1d, conv2d } from "../ops/index.ts";
import { type Initializer, zeros } from "./initializers.ts";
import { Module, Parameter } from "./module.ts";

export interface ConvolutionOptions {
  init: Initializer;
  /** Places that the kernel spans along each axis. */
  kernel: number;
  /** Default 1. */
  stride?: number;
  /** Zeros on both sides of each axis. Default 0. */
  padding?: number;
  /** Default yes. */
  bias?: boolean;
}

abstract class Convolution extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  readonly #stride: number;
  readonly #padding: number;

  constructor(inChannels: number, outChannels: number, axes: number, options: ConvolutionOptions) {
    super();
    const shape = [outChannels, inChannels, ...Array<number>(axes).fill(options.kernel)];
    this.weight = new Parameter(shape, () => options.init(shape));
    this.bias = (options.bias ?? true) ? new Parameter([outChannels], () => zeros([outChannels])) : undefined;
    this.#stride = options.stride ?? 1;
    this.#padding = options.padding ?? 0;
  }

  protected convolve(x: Tensor, op: typeof conv1d): Tensor {
    return op(x, this.weight.value, { bias: this.bias?.value, stride: this.#stride, padding: this.#padding });
  }
}

/** `weight` [out, in, kernel]; x [batch, in, time] → [batch, out, time′]. */
export class Conv1d extends Convolution {
  constructor(inChannels: number, outChannels: number, options: ConvolutionOptions) {
    super(inChannels, outChannels, 1, options);
  }

  forward(x: Tensor): Tensor {
    return this.convolve(x, conv1d);
  }
}

/** `weight` [out, in, kernel, kernel]; x [batch, in, height, width] → [batch, out, height′, width′]. */
export class Conv2d extends Convolution {
  constructor(inChannels: number, outChannels: number, options: ConvolutionOptions) {
    super(inChannels, outChannels, 2, options);
  }

  forward(x: Tensor): Tensor {
    return this.convolve(x, conv2d);
  }
}
