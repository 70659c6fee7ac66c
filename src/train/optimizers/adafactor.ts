import { z } from "zod";
import { elementCount, read, type Tensor, type Variable } from "../../graph/index.ts";
import { add, div, maximum, mean, mul, sqrt, sub, sum, sumOfSquares, unsqueeze } from "../../ops/index.ts";
import { commonOptions, decayOf, defineOptimizer, isDecayed, momentum } from "./define.ts";
import { zeroState } from "./moments.ts";
import type { Slot } from "./optimizer.ts";
import { slotsOf } from "./slots.ts";

const schema = z.strictObject({
  ...commonOptions,
  /** Whether the learning rate of update t is at most 1/√t; the paper's peak is 0.01. */
  relativeStep: z.boolean().default(false),
  /** Whether each tensor's learning rate is multiplied by the root mean square of its values, or by `epsilons[1]` where that is more. */
  scaleParameter: z.boolean().default(false),
  /** The root mean square that no update of a tensor exceeds, before the learning rate. */
  clipThreshold: z.number().positive().default(1),
  /** The second moment of update t decays by 1 − t^decayRate. */
  decayRate: z.number().negative().default(-0.8),
  /** Decay of an average of the updates, which costs a tensor of the parameter's size. Default: none, and updates are applied as they come. */
  beta1: momentum.optional(),
  /** Added to squared gradients, and the smallest scale of a tensor. */
  epsilons: z.tuple([z.number().nonnegative(), z.number().nonnegative()]).readonly().default([1e-30, 1e-3]),
});

export type AdafactorOptions = z.input<typeof schema>;

/** Root mean square over all elements. Row by row first: ONNX Runtime spreads rows over the threads, but not one large sum. */
const rootMeanSquare = (x: Tensor): Tensor => {
  const squares = x.rank > 1 ? sum(sumOfSquares(x, -1)) : sumOfSquares(x);
  return sqrt(div(squares, elementCount(x.shape as number[])));
};

/**
 * Adafactor: of a matrix's second moments only the means of rows and columns are kept (Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear
 * Memory Cost"). The numbers are those of transformers' Adafactor, and with `relativeStep` and `scaleParameter` those of PyTorch's; weight decay takes the
 * learning rate itself, as PyTorch's. By default, as is usual for fine-tuning, the learning rate is the run's alone.
 */
export const adafactor = defineOptimizer(
  { name: "adafactor", summary: "second moments by rows and columns: hardly any state" },
  schema,
  (groups, options) => {
    const { weightDecay, clipThreshold, decayRate, beta1, epsilons } = options;
    // Every tensor has a scale of its own.
    const slots = slotsOf(groups, { kind: () => "", elementwise: () => false });
    const states = new Map(slots.map((slot) => [slot, stateOf(slot, beta1 !== undefined)]));
    const hyperparameters = { weightDecay, clipThreshold, decayRate, ...(beta1 !== undefined && { beta1 }) };
    return {
      groups,
      slots,
      variables: slots.flatMap((slot) => Object.values(states.get(slot)!)),
      hyperparameters,
      scalars(group, step, learningRate) {
        const { weightDecay: ofAll, clipThreshold, decayRate, beta1 } = hyperparameters;
        const ofSquares = step ** decayRate;
        return {
          rate: options.relativeStep ? Math.min(learningRate, 1 / Math.sqrt(step)) : learningRate,
          decay: 1 - learningRate * decayOf(group, ofAll),
          beta2: 1 - ofSquares,
          ofSquares,
          clipThreshold,
          ...(beta1 !== undefined && { beta1, ofUpdate: 1 - beta1 }),
        };
      },
      update(slot, { value, gradient, scalars }) {
        const { average, ...moments } = states.get(slot)!;
        const { inverseRoot, state } = secondMoment(moments, gradient, scalars, epsilons[0]);
        const raw = mul(gradient, inverseRoot);
        const clip = maximum(div(rootMeanSquare(raw), scalars.clipThreshold!), 1);
        const scale = options.scaleParameter ? mul(maximum(rootMeanSquare(value), epsilons[1]), scalars.rate!) : scalars.rate!;
        const step = mul(raw, div(scale, clip));
        const start = isDecayed(slot.group, slot.parameters[0]!, options) ? mul(value, scalars.decay!) : value;
        if (!average) return { value: sub(start, step), state };
        const averaged = add(mul(read(average), scalars.beta1!), mul(step, scalars.ofUpdate!));
        return { value: sub(start, averaged), state: [...state, [average, averaged]] };
      },
    };
  },
);

type State = Partial<Record<"row" | "column" | "square" | "average", Variable>>;

/** Of [..., rows, columns] the means by rows [..., rows] and by columns [..., columns]; of a vector every square. */
function stateOf({ name, shape }: Slot, averaged: boolean): State {
  const average = averaged ? { average: zeroState(`${name}.update_average`, shape) } : {};
  if (shape.length < 2) return { square: zeroState(`${name}.second_moment`, shape), ...average };
  return {
    row: zeroState(`${name}.second_moment.row`, shape.slice(0, -1)),
    column: zeroState(`${name}.second_moment.column`, [...shape.slice(0, -2), shape.at(-1)!]),
    ...average,
  };
}

type Scalars = Readonly<Record<string, Tensor>>;

/** The second moments after this gradient, and 1/√ of each element's. */
function secondMoment({ row, column, square }: State, gradient: Tensor, { beta2, ofSquares }: Scalars, epsilon: number) {
  const squares = add(mul(gradient, gradient), epsilon);
  const next = (variable: Variable, value: Tensor) => add(mul(read(variable), beta2!), mul(value, ofSquares!));
  if (!row || !column) {
    const moment = next(square!, squares);
    return { inverseRoot: div(1, sqrt(moment)), state: [[square!, moment] as const] };
  }
  const rows = next(row, mean(squares, [-1]));
  const columns = next(column, mean(squares, [-2]));
  // A row's share of the mean, so that row · column has the size of a square.
  const share = div(rows, mean(rows, [-1], { keepDims: true }));
  const inverseRoot = mul(div(1, sqrt(unsqueeze(share, -1))), div(1, sqrt(unsqueeze(columns, -2))));
  return { inverseRoot, state: [[row, rows] as const, [column, columns] as const] };
}
