import { z } from "zod";
import { EspalierError, type Tensor } from "../../graph/index.ts";
import { add, mul, sub } from "../../ops/index.ts";
import { commonOptions, decayOf, defineOptimizer, isDecayed, momentum } from "./define.ts";
import { elementwiseSlots } from "./moments.ts";

const schema = z.strictObject({
  ...commonOptions,
  /** With 0 there is no state. */
  momentum: momentum.default(0),
  /** Whether the step looks ahead along the momentum. */
  nesterov: z.boolean().default(false),
});

export type SgdOptions = z.input<typeof schema>;

/** Stochastic gradient descent with PyTorch's momentum: b ← μ·b + g, p ← p − lr·b. Weight decay is an L2 term of the gradient (coupled), as in PyTorch. */
export const sgd = defineOptimizer(
  { name: "sgd", summary: "gradient descent, with or without momentum" },
  schema,
  (groups, { momentum, nesterov, ...options }) => {
    if (nesterov && momentum === 0)
      throw new EspalierError("bad-option", "sgd: nesterov looks ahead along the momentum, so it needs a momentum above 0, got 0.");
    const moments = momentum === 0 ? [] : [{ name: "momentum_buffer", signed: true }];
    const { slots, variables, update } = elementwiseSlots(groups, { ...options, moments, stateDtype: "float32" });
    const { weightDecay } = options;
    const hyperparameters: Record<"weightDecay" | "momentum", number> = { weightDecay, momentum };
    return {
      groups,
      slots,
      variables,
      hyperparameters,
      scalars: (group, _step, learningRate) => ({
        learningRate,
        decay: decayOf(group, hyperparameters.weightDecay),
        ...(momentum > 0 && { momentum: hyperparameters.momentum }),
      }),
      update: (slot, { scalars, ...operands }) =>
        update(slot, operands, (of): Record<string, Tensor> => {
          const decayed = isDecayed(slot.group, slot.parameters[0]!, options);
          const gradient = decayed ? add(of.gradient!, mul(of.value!, scalars.decay!)) : of.gradient!;
          if (momentum === 0) return { value: sub(of.value!, mul(gradient, scalars.learningRate!)) };
          const velocity = add(mul(of.momentum_buffer!, scalars.momentum!), gradient);
          const direction = nesterov ? add(gradient, mul(velocity, scalars.momentum!)) : velocity;
          return { value: sub(of.value!, mul(direction, scalars.learningRate!)), momentum_buffer: velocity };
        }),
    };
  },
);
