import { z } from "zod";
import { EspalierError, read, Variable } from "../../graph/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { add, mul, sub } from "../../ops/index.ts";
import type { Device } from "../../runtime/index.ts";
import type { Optimizer, OptimizerState } from "./optimizer.ts";
import { parted } from "./slots.ts";

const schema = z.strictObject({
  /** The part of the average that stays. */
  decay: z.number().min(0).lt(1).default(0.999),
  /** Whether the n-th update has the decay (1 + n) / (10 + n) while that is less, so that a short run does not hold on to its beginning. */
  warmup: z.boolean().default(true),
  /** Updates of the weights between two of the average. */
  every: z.int().min(1).default(1),
});

export type AverageOptions = z.input<typeof schema>;

/**
 * An exponential moving average of the weights beside them, begun with their first values: a ← d·a + (1 − d)·w after each update (Polyak and Juditsky,
 * "Acceleration of Stochastic Approximation by Averaging"; the numbers are those of PyTorch's AveragedModel with `get_ema_multi_avg_fn`). The averages are
 * state of the optimizer, so they are in every checkpoint, and behind a closed gate they stay as they are.
 *
 * @throws EspalierError `bad-option`
 */
export function averaged(optimizer: Optimizer, options: AverageOptions): Optimizer {
  const parsed = schema.safeParse(options);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `  ${issue.path.join(".") || "options"}: ${issue.message}`);
    throw new EspalierError("bad-option", `average: wrong options:\n${problems.join("\n")}`);
  }
  const { decay, warmup, every } = parsed.data;
  /** What the average takes of the weights at the n-th update. */
  const share = (n: number): number => {
    if (n % every !== 0) return 0;
    const updates = n / every;
    return 1 - (warmup ? Math.min(decay, (1 + updates) / (10 + updates)) : decay);
  };
  return {
    ...optimizer,
    options: { ...optimizer.options, average: parsed.data },
    create(groups) {
      const state = optimizer.create(groups);
      const averages = new Map(
        groups.flatMap((group) => group.parameters.map((p) => [p, new Variable(`${p.name}.average`, p, () => p.storage)] as const)),
      );
      return {
        ...state,
        averages,
        variables: [...state.variables, ...averages.values()],
        scalars: (group, step, learningRate) => ({ ...state.scalars(group, step, learningRate), averageShare: share(step) }),
        update(slot, operands) {
          const next = state.update(slot, operands);
          const moved = parted(slot, next.value).map(([p, value]) => {
            const average = averages.get(p)!;
            return [average, add(read(average), mul(sub(value, read(average)), operands.scalars.averageShare!))] as const;
          });
          return { value: next.value, state: [...next.state, ...moved] };
        },
      };
    },
  };
}

/** Puts the averages in the weights' place and the weights in theirs: once to evaluate or save, once more to train on. */
export async function swapAverages(
  { averages = new Map<Parameter, Variable>() }: Pick<OptimizerState, "averages">,
  device: Device,
): Promise<void> {
  if (averages.size === 0) return;
  await device.toHost([...averages].flat());
  for (const [parameter, average] of averages) {
    const [weights, means] = [device.read(parameter).data, device.read(average).data];
    device.write(parameter, means);
    device.write(average, weights);
  }
}
