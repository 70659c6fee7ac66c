import { assign, elementCount, type MemoryStorage, read, type Tensor, Variable } from "../graph/index.ts";
import { floats, type Parameter } from "../nn/index.ts";
import { add, div, mul, sqrt, sub } from "../ops/index.ts";

/** A rule that turns gradients into updates. Its arithmetic is part of the training graph. */
export interface Optimizer {
  readonly name: string;
  /** Options with their defaults filled in, as recorded in the run. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Allocates the state for these parameters. */
  create(parameters: readonly Parameter[]): OptimizerState;
}

export interface OptimizerState {
  /** Moments and the like, saved in every checkpoint; names are `<parameter>.<moment>`. */
  readonly variables: readonly Variable[];
  /** Scalars that depend on the step (counted from 1) and its learning rate, computed on the host in double precision and fed to each run. */
  scalars(step: number, learningRate: number): Record<string, number>;
  /** Traces the update of one parameter; `scalars` are float32 tensors under the names above. */
  update(parameter: Parameter, gradient: Tensor, scalars: Readonly<Record<string, Tensor>>): void;
}

const zeroState = (parameter: Parameter, moment: string) => {
  const { shape } = parameter;
  return new Variable(
    `${parameter.name}.${moment}`,
    { dtype: "float32", shape },
    (): MemoryStorage => floats(shape, new Float32Array(elementCount(shape))),
  );
};

export interface AdamWOptions {
  /** Peak learning rate; a schedule scales it. */
  learningRate: number;
  /** Decay of the first and second moment. Default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  epsilon?: number;
  /** Decoupled weight decay. Default 0. */
  weightDecay?: number;
  /** Which parameters decay. Default: those with two or more axes, so that biases and norms do not. */
  decays?: (parameter: Parameter) => boolean;
}

const isMatrix = (parameter: Parameter): boolean => parameter.shape.length > 1;

/**
 * Adam with decoupled weight decay and bias correction (Loshchilov and Hutter, "Decoupled Weight Decay Regularization").
 * The moments are kept divided by (1 − β), which saves two passes over every parameter: m = (1 − β₁)·M, v = (1 − β₂)·V.
 */
export function adamW(options: AdamWOptions): Optimizer & { learningRate: number } {
  const resolved = { betas: [0.9, 0.999] as const, epsilon: 1e-8, weightDecay: 0, decays: isMatrix, ...options };
  const [beta1, beta2] = resolved.betas;
  return {
    name: "adamw",
    learningRate: resolved.learningRate,
    options: resolved,
    create(parameters) {
      const first = new Map(parameters.map((p) => [p, zeroState(p, "exp_avg")]));
      const second = new Map(parameters.map((p) => [p, zeroState(p, "exp_avg_sq")]));
      return {
        variables: parameters.flatMap((p) => [first.get(p)!, second.get(p)!]),
        scalars(step, learningRate) {
          // p −= lr·m̂/(√v̂ + ε) with m̂ = M·(1−β₁)/(1−β₁ᵗ) and √v̂ = √V·c  ⇒  p −= M·(lr·(1−β₁)/(1−β₁ᵗ)/c) / (√V + ε/c)
          const c = Math.sqrt((1 - beta2) / (1 - beta2 ** step));
          return {
            stepSize: (learningRate * (1 - beta1)) / (1 - beta1 ** step) / c,
            epsilon: resolved.epsilon / c,
            decay: 1 - learningRate * resolved.weightDecay,
          };
        },
        update(parameter, gradient, { stepSize, epsilon, decay }) {
          const [m, v] = [first.get(parameter)!, second.get(parameter)!];
          const nextM = add(mul(read(m), beta1), gradient);
          const nextV = add(mul(read(v), beta2), mul(gradient, gradient));
          assign(m, nextM);
          assign(v, nextV);
          const decayed = resolved.weightDecay > 0 && resolved.decays(parameter) ? mul(parameter.value, decay!) : parameter.value;
          assign(parameter, sub(decayed, div(mul(nextM, stepSize!), add(sqrt(nextV), epsilon!))));
        },
      };
    },
  };
}

export interface SgdOptions {
  learningRate: number;
  /** Default 0: no momentum, no state. */
  momentum?: number;
  nesterov?: boolean;
  /** Weight decay as an L2 term of the gradient (coupled, as in PyTorch). Default 0. */
  weightDecay?: number;
  /** Which parameters decay. Default: those with two or more axes. */
  decays?: (parameter: Parameter) => boolean;
}

/** Stochastic gradient descent with PyTorch's momentum: b ← μ·b + g, p ← p − lr·b. */
export function sgd(options: SgdOptions): Optimizer & { learningRate: number } {
  const resolved = { momentum: 0, nesterov: false, weightDecay: 0, decays: isMatrix, ...options };
  const { momentum, nesterov, weightDecay, decays } = resolved;
  return {
    name: "sgd",
    learningRate: resolved.learningRate,
    options: resolved,
    create(parameters) {
      const buffers = new Map(momentum === 0 ? [] : parameters.map((p) => [p, zeroState(p, "momentum_buffer")] as const));
      return {
        variables: [...buffers.values()],
        scalars: (_step, learningRate) => ({ learningRate }),
        update(parameter, rawGradient, { learningRate }) {
          const gradient = weightDecay > 0 && decays(parameter) ? add(rawGradient, mul(parameter.value, weightDecay)) : rawGradient;
          const buffer = buffers.get(parameter);
          let direction = gradient;
          if (buffer) {
            const next = add(mul(read(buffer), momentum), gradient);
            assign(buffer, next);
            direction = nesterov ? add(gradient, mul(next, momentum)) : next;
          }
          assign(parameter, sub(parameter.value, mul(direction, learningRate!)));
        },
      };
    },
  };
}
