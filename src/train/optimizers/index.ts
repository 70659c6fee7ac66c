import { EspalierError, elementCount, type MemoryStorage, read, type Tensor, Variable } from "../../graph/index.ts";
import { floats, type Parameter } from "../../nn/index.ts";
import { add, div, mul, sqrt, sub } from "../../ops/index.ts";

/** Parameters that share the scalars of their updates: the learning rate, the weight decay and the number of updates so far. */
export interface ParameterGroup {
  /** Unique among the groups of a run; empty for the parameters that no method sets apart. */
  readonly name: string;
  readonly parameters: readonly Parameter[];
  /** Factor on the run's learning rate. Default 1. */
  readonly learningRateFactor?: number;
  /** In place of the optimizer's weight decay. */
  readonly weightDecay?: number;
  /** The run-time gate that the group's updates wait for. Absent: updated at every step. */
  readonly gate?: string;
}

/** A rule that turns gradients into updates. Its arithmetic is part of the training graph. */
export interface Optimizer {
  readonly name: string;
  /** Options with their defaults filled in, as recorded in the run. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Allocates the state for these parameters. */
  create(groups: readonly ParameterGroup[]): OptimizerState;
}

export interface OptimizerState {
  readonly groups: readonly ParameterGroup[];
  /** Moments and the like, saved in every checkpoint; names are `<parameter>.<moment>`. */
  readonly variables: readonly Variable[];
  /**
   * Scalars of a group's update, computed on the host in double precision and fed to each run. `step` counts the updates of this group from 1, this
   * one included: a group that was added late or skipped steps has a bias correction of its own. The learning rate is the group's.
   */
  scalars(group: ParameterGroup, step: number, learningRate: number): Record<string, number>;
  /**
   * Traces the update of one parameter: what it and its moments become. The caller assigns them, so that an update may stand inside a run-time gate.
   * `scalars` are float32 tensors under the names above.
   */
  update(parameter: Parameter, gradient: Tensor, scalars: Readonly<Record<string, Tensor>>): ReadonlyMap<Variable, Tensor>;
}

/** The usual case: one group of all parameters. */
export const oneGroup = (parameters: readonly Parameter[]): readonly ParameterGroup[] => [{ name: "", parameters }];

const zeroState = (parameter: Parameter, moment: string) => {
  const { shape } = parameter;
  return new Variable(
    `${parameter.name}.${moment}`,
    { dtype: "float32", shape },
    (): MemoryStorage => floats(shape, new Float32Array(elementCount(shape))),
  );
};

/** Every parameter's weight decay: its group's, or the optimizer's; 0 for those that do not decay. */
const weightDecays = (
  groups: readonly ParameterGroup[],
  { weightDecay, decays }: { weightDecay: number; decays: (parameter: Parameter) => boolean },
): ReadonlyMap<Parameter, number> =>
  new Map(groups.flatMap((g) => g.parameters.map((p) => [p, decays(p) ? (g.weightDecay ?? weightDecay) : 0] as const)));

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
 * `first_moment` is PyTorch's exp_avg divided by (1 − β₁) and `second_moment` its exp_avg_sq divided by (1 − β₂): m = (1 − β₁)·M, v = (1 − β₂)·V.
 * That saves two passes over every parameter.
 */
export function adamW(options: AdamWOptions): Optimizer & { learningRate: number } {
  const resolved = { betas: [0.9, 0.999] as const, epsilon: 1e-8, weightDecay: 0, decays: isMatrix, ...options };
  const [beta1, beta2] = resolved.betas;
  return {
    name: "adamw",
    learningRate: resolved.learningRate,
    options: resolved,
    create(groups) {
      const parameters = groups.flatMap((g) => g.parameters);
      const first = new Map(parameters.map((p) => [p, zeroState(p, "first_moment")]));
      const second = new Map(parameters.map((p) => [p, zeroState(p, "second_moment")]));
      const decayOf = weightDecays(groups, resolved);
      return {
        groups,
        variables: parameters.flatMap((p) => [first.get(p)!, second.get(p)!]),
        scalars({ weightDecay = resolved.weightDecay }, step, learningRate) {
          // p −= lr·m̂/(√v̂ + ε) with m̂ = M·(1−β₁)/(1−β₁ᵗ) and √v̂ = √V·c  ⇒  p −= M·(lr·(1−β₁)/(1−β₁ᵗ)/c) / (√V + ε/c)
          const c = Math.sqrt((1 - beta2) / (1 - beta2 ** step));
          return {
            stepSize: (learningRate * (1 - beta1)) / (1 - beta1 ** step) / c,
            epsilon: resolved.epsilon / c,
            decay: 1 - learningRate * weightDecay,
          };
        },
        update(parameter, gradient, { stepSize, epsilon, decay }) {
          const [m, v] = [first.get(parameter)!, second.get(parameter)!];
          const nextM = add(mul(read(m), beta1), gradient);
          const nextV = add(mul(read(v), beta2), mul(gradient, gradient));
          const decayed = decayOf.get(parameter)! > 0 ? mul(parameter.value, decay!) : parameter.value;
          const next = sub(decayed, div(mul(nextM, stepSize!), add(sqrt(nextV), epsilon!)));
          return new Map<Variable, Tensor>([
            [m, nextM],
            [v, nextV],
            [parameter, next],
          ]);
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
  const { momentum, nesterov } = resolved;
  if (nesterov && !(momentum > 0))
    throw new EspalierError("bad-option", `sgd: nesterov looks ahead along the momentum, so it needs a momentum above 0, got ${momentum}.`);
  return {
    name: "sgd",
    learningRate: resolved.learningRate,
    options: resolved,
    create(groups) {
      const parameters = groups.flatMap((g) => g.parameters);
      const buffers = new Map(momentum === 0 ? [] : parameters.map((p) => [p, zeroState(p, "momentum_buffer")] as const));
      const decayOf = weightDecays(groups, resolved);
      return {
        groups,
        variables: [...buffers.values()],
        scalars: (_group, _step, learningRate) => ({ learningRate }),
        update(parameter, rawGradient, { learningRate }) {
          const next = new Map<Variable, Tensor>();
          const decay = decayOf.get(parameter)!;
          const gradient = decay > 0 ? add(rawGradient, mul(parameter.value, decay)) : rawGradient;
          const buffer = buffers.get(parameter);
          let direction = gradient;
          if (buffer) {
            const velocity = add(mul(read(buffer), momentum), gradient);
            next.set(buffer, velocity);
            direction = nesterov ? add(gradient, mul(velocity, momentum)) : velocity;
          }
          return next.set(parameter, sub(parameter.value, mul(direction, learningRate!)));
        },
      };
    },
  };
}
