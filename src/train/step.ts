import { grad } from "../autodiff/index.ts";
import {
  assign,
  EspalierError,
  type MemoryStorage,
  read,
  type Tensor,
  type TensorType,
  type Traced,
  trace,
  Variable,
} from "../graph/index.ts";
import { floats, inTraining, type Parameter } from "../nn/index.ts";
import { add, div, equal, fill, minimum, mul, sqrt, sum, sumOfSquares, where } from "../ops/index.ts";
import type { Objective } from "./objectives.ts";
import type { OptimizerState } from "./optimizers.ts";

export interface StepOptions {
  objective: Objective;
  parameters: readonly Parameter[];
  optimizer: OptimizerState;
  /** Gradients are scaled down to this global norm. Absent: not clipped. */
  maxGradientNorm?: number;
}

/** The weight to divide by. A batch in which no target counts has loss 0 and zero gradients, where 0/0 would put NaN into every weight. */
const divisor = (weight: Tensor): Tensor => where(equal(weight, 0), 1, weight);

const optimizerPrefix = "optimizer.";

/** The optimizer's scalars under the names that the step knows them by. */
export const prefixed = (scalars: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(Object.entries(scalars).map(([name, v]) => [optimizerPrefix + name, v]));

function scalarTypes(optimizer: OptimizerState): Record<string, TensorType> {
  return Object.fromEntries(Object.keys(prefixed(optimizer.scalars(1, 0))).map((name) => [name, { dtype: "float32", shape: [] } as const]));
}

/** ‖g‖ over all gradients together. Row by row first: ONNX Runtime spreads rows over the threads, but not one large sum. */
function globalNorm(gradients: readonly Tensor[]): Tensor {
  const squares = gradients.map((g) => (g.rank > 1 ? sum(sumOfSquares(g, -1)) : sumOfSquares(g)));
  return sqrt(squares.reduce((a, b) => add(a, b)));
}

/** Clips and applies gradients; returns their norm before clipping. */
function applyGradients(
  gradients: readonly Tensor[],
  inputs: Readonly<Record<string, Tensor>>,
  { parameters, optimizer, maxGradientNorm }: StepOptions,
): Tensor {
  const norm = globalNorm(gradients);
  // The small constant and the order of operations are PyTorch's (clip_grad_norm_).
  const scale = maxGradientNorm === undefined ? undefined : minimum(div(maxGradientNorm, add(norm, 1e-6)), 1);
  const scalars = Object.fromEntries(
    Object.keys(scalarTypes(optimizer)).map((name) => [name.slice(optimizerPrefix.length), inputs[name]!]),
  );
  for (const [i, p] of parameters.entries()) optimizer.update(p, scale ? mul(gradients[i]!, scale) : gradients[i]!, scalars);
  return norm;
}

function requireParameters(parameters: readonly Parameter[]): void {
  if (parameters.length === 0)
    throw new EspalierError("nothing-to-train", "No parameter is trainable: add a method such as lora(…), or unfreeze part of the model.");
}

/** One training step as one graph: loss, gradients, clipping and update. */
export function traceStep(types: Record<string, TensorType>, options: StepOptions): Traced {
  requireParameters(options.parameters);
  return trace({ ...types, ...scalarTypes(options.optimizer) }, (inputs) => {
    const { total, weight } = inTraining(() => options.objective.trace(inputs));
    const gradients = grad(
      div(total, divisor(weight)),
      options.parameters.map((p) => p.value),
    );
    return { total, weight, gradientNorm: applyGradients(gradients, inputs, options) };
  });
}

/** Gradients summed over several batches before one update. */
export class Accumulator {
  readonly #options: StepOptions;
  readonly #sums: ReadonlyMap<Parameter, Variable>;
  readonly #weight = new Variable("accumulated.weight", { dtype: "float32", shape: [] }, () => floats([], new Float32Array(1)));

  constructor(options: StepOptions) {
    requireParameters(options.parameters);
    this.#options = options;
    const zero = (p: Parameter) => (): MemoryStorage => floats(p.shape, new Float32Array(p.shape.reduce((n, d) => n * d, 1)));
    this.#sums = new Map(options.parameters.map((p) => [p, new Variable(`accumulated.${p.name}`, p, zero(p))]));
  }

  /** Adds the gradients of one batch's total loss to the sums. */
  traceBatch(types: Record<string, TensorType>): Traced {
    return trace(types, (inputs) => {
      const { total, weight } = inTraining(() => this.#options.objective.trace(inputs));
      const gradients = grad(
        total,
        this.#options.parameters.map((p) => p.value),
      );
      for (const [i, sumVariable] of [...this.#sums.values()].entries()) assign(sumVariable, add(read(sumVariable), gradients[i]!));
      assign(this.#weight, add(read(this.#weight), weight));
      return { total, weight };
    });
  }

  /** Divides by the total weight, so that the update equals that of one large batch, applies it and clears the sums. */
  traceUpdate(): Traced {
    return trace(scalarTypes(this.#options.optimizer), (inputs) => {
      const weight = divisor(read(this.#weight));
      const gradients = [...this.#sums.values()].map((v) => div(read(v), weight));
      const gradientNorm = applyGradients(gradients, inputs, this.#options);
      for (const v of [...this.#sums.values(), this.#weight]) assign(v, fill(v.shape, 0));
      return { gradientNorm };
    });
  }
}
