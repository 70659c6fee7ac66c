import { z } from "zod";
import { add, mul, sign, sub } from "../../ops/index.ts";
import { commonOptions, decayOf, defineOptimizer, isDecayed, momentum } from "./define.ts";
import { elementwiseSlots, stateDtype } from "./moments.ts";

const schema = z.strictObject({
  ...commonOptions,
  /** Of the momentum in the update, and from step to step. */
  betas: z.tuple([momentum, momentum]).readonly().default([0.9, 0.99]),
  stateDtype,
});

export type LionOptions = z.input<typeof schema>;

/**
 * Lion: every weight moves by the learning rate, in the direction of an average of momentum and gradient (Chen et al., "Symbolic Discovery of Optimization
 * Algorithms"). One moment, where AdamW has two. The paper finds a third to a tenth of AdamW's learning rate right, with a weight decay as many times
 * higher. The numbers are those of lion-pytorch.
 */
export const lion = defineOptimizer(
  { name: "lion", summary: "the sign of an average of gradients: one moment" },
  schema,
  (groups, options) => {
    const moments = [{ name: "momentum", signed: true }];
    const { slots, variables, update } = elementwiseSlots(groups, { ...options, moments });
    const { weightDecay, betas } = options;
    const hyperparameters = { weightDecay, beta1: betas[0], beta2: betas[1] };
    return {
      groups,
      slots,
      variables,
      hyperparameters,
      scalars(group, _step, learningRate) {
        const { weightDecay, beta1, beta2 } = hyperparameters;
        const decay = 1 - learningRate * decayOf(group, weightDecay);
        return { learningRate, decay, beta1, ofGradient1: 1 - beta1, beta2, ofGradient2: 1 - beta2 };
      },
      update: (slot, { scalars: { learningRate, decay, beta1, ofGradient1, beta2, ofGradient2 }, ...operands }) =>
        update(slot, operands, ({ value, gradient, momentum }) => {
          const direction = sign(add(mul(momentum!, beta1!), mul(gradient!, ofGradient1!)));
          const start = isDecayed(slot.group, slot.parameters[0]!, options) ? mul(value!, decay!) : value!;
          return {
            value: sub(start, mul(direction, learningRate!)),
            momentum: add(mul(momentum!, beta2!), mul(gradient!, ofGradient2!)),
          };
        }),
    };
  },
);
