import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import { add, div, mul, sqrt, sub } from "../../ops/index.ts";
import { commonOptions, decayOf, defineOptimizer, isDecayed, momentum } from "./define.ts";
import { elementwiseSlots, stateDtype } from "./moments.ts";

const schema = z.strictObject({
  ...commonOptions,
  /** Decay of the first and second moment. */
  betas: z.tuple([momentum, momentum]).readonly().default([0.9, 0.999]),
  epsilon: z.number().positive().default(1e-8),
  stateDtype,
});

export type AdamWOptions = z.input<typeof schema>;

/**
 * Adam with decoupled weight decay and bias correction (Loshchilov and Hutter, "Decoupled Weight Decay Regularization"). The numbers are PyTorch's, and
 * with `stateDtype: "int8"` those of bitsandbytes.
 *
 * `first_moment` is PyTorch's exp_avg divided by (1 − β₁) and `second_moment` its exp_avg_sq divided by (1 − β₂): m = (1 − β₁)·M, v = (1 − β₂)·V.
 * That saves two passes over every parameter, and for it the betas stay as they are throughout a run.
 */
export const adamW = defineOptimizer({ name: "adamw", summary: "Adam with decoupled weight decay" }, schema, (groups, options) => {
  const { betas, weightDecay, epsilon } = options;
  const { slots, variables, update } = elementwiseSlots(groups, { ...options, moments: adamMoments });
  const hyperparameters = { weightDecay, epsilon };
  return {
    groups,
    slots,
    variables,
    hyperparameters,
    scalars: (group, step, learningRate) => ({
      ...adamScalars(betas, hyperparameters.epsilon, { step, learningRate }),
      decay: 1 - learningRate * decayOf(group, hyperparameters.weightDecay),
    }),
    update: (slot, { scalars, ...operands }) =>
      update(slot, operands, (of) => {
        const start = isDecayed(slot.group, slot.parameters[0]!, options) ? mul(of.value!, scalars.decay!) : of.value!;
        const { step, ...moments } = adamStep(of, betas, scalars);
        return { value: sub(start, step), ...moments };
      }),
  };
});

export const adamMoments = [
  { name: "first_moment", signed: true },
  { name: "second_moment", signed: false },
];

/** p −= lr·m̂/(√v̂ + ε) with m̂ = M·(1−β₁)/(1−β₁ᵗ) and √v̂ = √V·c  ⇒  p −= M·(lr·(1−β₁)/(1−β₁ᵗ)/c) / (√V + ε/c) */
export function adamScalars([beta1, beta2]: readonly [number, number], epsilon: number, at: { step: number; learningRate: number }) {
  const c = Math.sqrt((1 - beta2) / (1 - beta2 ** at.step));
  return { stepSize: (at.learningRate * (1 - beta1)) / (1 - beta1 ** at.step) / c, epsilon: epsilon / c };
}

type Values = Readonly<Record<string, Tensor>>;

/** What Adam's moments become, and the step that it takes; see {@link adamScalars}. */
export function adamStep(of: Values, [beta1, beta2]: readonly [number, number], { stepSize, epsilon }: Values) {
  const first_moment = add(mul(of.first_moment!, beta1), of.gradient!);
  const second_moment = add(mul(of.second_moment!, beta2), mul(of.gradient!, of.gradient!));
  return { first_moment, second_moment, step: div(mul(first_moment, stepSize!), add(sqrt(second_moment), epsilon!)) };
}
