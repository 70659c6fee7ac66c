import { z } from "zod";
import { read, type Tensor, type Variable } from "../../graph/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { add, div, matmul, maximum, mul, sqrt, sub, sum, sumOfSquares } from "../../ops/index.ts";
import { adamMoments, adamScalars, adamStep } from "./adamw.ts";
import { commonOptions, decayOf, defineOptimizer, isDecayed, momentum, predicate } from "./define.ts";
import { zeroState } from "./moments.ts";
import type { Slot } from "./optimizer.ts";
import { slotsOf } from "./slots.ts";

/** Names of embeddings and of heads among the families. */
const ends = /(^|\.)(\w*embed\w*|wte|wpe|shared|lm_head|score|classifier|decoder\.weight)(\.|$)/;

const isHidden = ({ name }: Parameter): boolean => !ends.test(name);

const schema = z.strictObject({
  ...commonOptions,
  momentum: momentum.default(0.95),
  /** Whether the update looks ahead along the momentum. */
  nesterov: z.boolean().default(true),
  /** Iterations that make the update orthogonal. */
  iterations: z.int().min(1).max(99).default(5),
  /** a, b and c of an iteration X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X. */
  coefficients: z.tuple([z.number(), z.number(), z.number()]).readonly().default([3.4445, -4.775, 2.0315]),
  /**
   * What the learning rate of an m × n matrix is multiplied by: `match-rms-adamw`: 0.2·√max(m, n), so that updates are as large as AdamW's and one learning
   * rate serves both (Liu et al., "Muon is Scalable for LLM Training"); `original`: √max(1, m/n).
   */
  scale: z.enum(["match-rms-adamw", "original"]).default("match-rms-adamw"),
  /** The parameters that Muon updates, of those with two axes; AdamW has the others. Default: all but embeddings and heads, told by their names. */
  matrices: predicate.default(() => isHidden),
  /** Of AdamW. */
  betas: z.tuple([momentum, momentum]).readonly().default([0.9, 0.999]),
  epsilon: z.number().positive().default(1e-8),
});

export type MuonOptions = z.input<typeof schema>;

/** Below this norm an update is not scaled up. */
const smallestNorm = 1e-7;

/**
 * Muon: the momentum of a hidden matrix is made nearly orthogonal before it is applied, by a few Newton–Schulz iterations; embeddings, heads, biases and norms
 * are updated by AdamW (Jordan et al., "Muon: An optimizer for hidden layers in neural networks"). The numbers are those of torch.optim.Muon, but for the
 * iterations, which PyTorch computes in bfloat16 and Espalier in float32.
 */
export const muon = defineOptimizer(
  { name: "muon", summary: "orthogonal updates of hidden matrices, AdamW for the rest" },
  schema,
  (groups, options) => {
    const { betas, nesterov, coefficients, iterations } = options;
    const orthogonalized = (p: Parameter) => p.shape.length === 2 && options.matrices(p);
    const slots = slotsOf(groups, {
      kind: (p) => (orthogonalized(p) ? "muon" : `adamw ${options.decays(p)}`),
      elementwise: (kind) => kind !== "muon",
    });
    const isMuon = (slot: Slot) => orthogonalized(slot.parameters[0]!);
    const names = (slot: Slot) => (isMuon(slot) ? ["momentum_buffer"] : adamMoments.map(({ name }) => name));
    const states = new Map(slots.map((slot) => [slot, names(slot).map((name) => zeroState(`${slot.name}.${name}`, slot.shape))]));
    const { weightDecay, momentum, epsilon } = options;
    const hyperparameters = { weightDecay, momentum, epsilon };
    return {
      groups,
      slots,
      variables: slots.flatMap((slot) => states.get(slot)!),
      hyperparameters,
      scalars(group, step, learningRate) {
        const { weightDecay, momentum, epsilon } = hyperparameters;
        return {
          ...adamScalars(betas, epsilon, { step, learningRate }),
          decay: 1 - learningRate * decayOf(group, weightDecay),
          learningRate,
          momentum,
          ofGradient: 1 - momentum,
        };
      },
      update(slot, { value, gradient, scalars }) {
        const start = isDecayed(slot.group, slot.parameters[0]!, options) ? mul(value, scalars.decay!) : value;
        if (!isMuon(slot)) {
          const [first, second] = states.get(slot)! as [Variable, Variable];
          const of = { gradient, first_moment: read(first), second_moment: read(second) };
          const { step, first_moment, second_moment } = adamStep(of, betas, scalars);
          return {
            value: sub(start, step),
            state: [
              [first, first_moment],
              [second, second_moment],
            ],
          };
        }
        const [buffer] = states.get(slot)!;
        const average = (a: Tensor, b: Tensor) => add(mul(a, scalars.momentum!), mul(b, scalars.ofGradient!));
        const next = average(read(buffer!), gradient);
        const direction = orthogonal(nesterov ? average(next, gradient) : next, coefficients, iterations);
        const step = mul(direction, mul(scalars.learningRate!, scaleOf(slot.shape, options.scale)));
        return { value: sub(start, step), state: [[buffer!, next]] };
      },
    };
  },
);

function scaleOf([rows, columns]: readonly number[], scale: "match-rms-adamw" | "original"): number {
  return scale === "original" ? Math.sqrt(Math.max(1, rows! / columns!)) : 0.2 * Math.sqrt(Math.max(rows!, columns!));
}

/** A matrix with the singular vectors of `x` [m, n] and singular values near 1. */
function orthogonal(x: Tensor, [a, b, c]: readonly [number, number, number], iterations: number): Tensor {
  const [rows, columns] = x.shape as [number, number];
  let y = div(x, maximum(sqrt(sum(sumOfSquares(x, -1))), smallestNorm));
  // The products of the shorter side are smaller: XXᵀX = X(XᵀX).
  const wide = rows <= columns;
  for (let i = 0; i < iterations; i++) {
    const gram = wide ? matmul(y, y, { transposeB: true }) : matmul(y, y, { transposeA: true });
    const factor = add(mul(gram, b), mul(matmul(gram, gram), c));
    y = add(mul(y, a), wide ? matmul(factor, y) : matmul(y, factor));
  }
  return y;
}
