import { grad } from "../autodiff/index.ts";
import {
  assign,
  atPath,
  EspalierError,
  elementCount,
  read,
  type Tensor,
  type TensorType,
  type Traced,
  trace,
  type Variable,
} from "../graph/index.ts";
import { inTraining } from "../nn/index.ts";
import { add, type ComputeDtype, computingIn, div, equal, fill, minimum, mul, sqrt, sum, sumOfSquares, when, where } from "../ops/index.ts";
import { type Device, type HostTensor, hostTensor } from "../runtime/index.ts";
import type { Objective } from "./objectives/index.ts";
import { traceObjective } from "./objectives/packed-rows.ts";
import { joined, type OptimizerState, type ParameterGroup, parted, type Slot, zeroState } from "./optimizers/index.ts";

export interface StepOptions {
  objective: Objective;
  /** Says which parameters are trained, in which groups and behind which gates. */
  optimizer: OptimizerState;
  /** Gradients are scaled down to this global norm. Absent: not clipped. */
  maxGradientNorm?: number;
  /** Computes the values of each block of the model again in the backward pass, rather than keep them: less memory, about a third more time. */
  rematerialise?: boolean | undefined;
  /**
   * What matrix products are computed in; weights, sums and the optimizer stay in float32. Default "float32". In "float16" the loss is scaled on its way
   * back, by {@link StepScalars.lossScale}, so that gradients do not vanish.
   */
  compute?: ComputeDtype | undefined;
}

/** A gradient for each slot of the optimizer. */
type Gradients = ReadonlyMap<Slot, Tensor>;
type Inputs = Readonly<Record<string, Tensor>>;

/** What a step is fed beside its batch. */
export interface StepScalars {
  /** The learning rate of each group in this step, or one for all, which their factors scale. */
  learningRate: number | ((group: ParameterGroup) => number);
  /** The number of updates of a group, this one included. */
  updates(group: ParameterGroup): number;
  /** The gates that are open in this step. */
  open?: Readonly<Record<string, boolean>>;
  /** Factor on the loss where products are computed in float16, a power of two; see `LossScaler`. Default 1. */
  lossScale?: number;
}

const lossScaleName = "loss.scale";

const scalarName = (group: ParameterGroup, scalar: string) => `optimizer.${group.name === "" ? "" : `${group.name}.`}${scalar}`;
const gateName = (gate: string) => `gate.${gate}`;
const gatesOf = ({ groups }: OptimizerState): string[] => [...new Set(groups.flatMap(({ gate }) => gate ?? []))];

/** The feeds of one step: every group's scalars, and the gates. */
export function stepFeeds(
  optimizer: OptimizerState,
  { learningRate, updates, open = {}, lossScale = 1 }: StepScalars,
): Record<string, HostTensor> {
  const rate = (group: ParameterGroup) =>
    typeof learningRate === "number" ? learningRate * (group.learningRateFactor ?? 1) : learningRate(group);
  const scalars = optimizer.groups.flatMap((group) =>
    Object.entries(optimizer.scalars(group, updates(group), rate(group))).map(
      ([scalar, value]) => [scalarName(group, scalar), hostTensor("float32", [], Float32Array.of(value))] as const,
    ),
  );
  const gates = gatesOf(optimizer).map((gate) => [gateName(gate), hostTensor("bool", [], Uint8Array.of(open[gate] ? 1 : 0))] as const);
  return { ...Object.fromEntries([...scalars, ...gates]), [lossScaleName]: hostTensor("float32", [], Float32Array.of(lossScale)) };
}

const stepInputs = (optimizer: OptimizerState): Record<string, TensorType> =>
  Object.fromEntries(
    Object.entries(stepFeeds(optimizer, { learningRate: 0, updates: () => 1 })).map(([name, { dtype, shape }]) => [name, { dtype, shape }]),
  );

/** The slots by their gate; those without one are always updated. */
function sections({ slots }: OptimizerState): { gate: string | undefined; slots: Slot[] }[] {
  return [...new Set(slots.map(({ group }) => group.gate))].map((gate) => ({
    gate,
    slots: slots.filter(({ group }) => group.gate === gate),
  }));
}

/** `open()`, inside a run-time gate where there is one. */
function gated(gate: string | undefined, inputs: Inputs, open: () => Tensor[], closed: () => Tensor[]): readonly Tensor[] {
  return gate === undefined ? open() : atPath(`optimizer/${gate}`, () => when(inputs[gateName(gate)]!, open, closed));
}

/** The weight to divide by. A batch in which no target counts has loss 0 and zero gradients, where 0/0 would put NaN into every weight. */
const divisor = (weight: Tensor): Tensor => where(equal(weight, 0), 1, weight);

function gradientsOf(loss: Tensor, inputs: Inputs, { optimizer, compute }: StepOptions): Gradients {
  const parameters = optimizer.slots.flatMap((slot) => slot.parameters);
  const scale = compute === "float16" ? inputs[lossScaleName]! : undefined;
  const scaled = grad(
    scale ? mul(loss, scale) : loss,
    parameters.map((p) => p.value),
  );
  const gradients = scale ? scaled.map((g) => mul(g, div(1, scale))) : scaled;
  const of = new Map(parameters.map((p, i) => [p, gradients[i]!]));
  return new Map(optimizer.slots.map((slot) => [slot, joined(slot, (p) => of.get(p)!)]));
}

/** Row by row first: ONNX Runtime spreads rows over the threads, but not one large sum. */
const square = (g: Tensor): Tensor => atPath("optimizer/clip", () => (g.rank > 1 ? sum(sumOfSquares(g, -1)) : sumOfSquares(g)));

/**
 * Every gradient and its squared norm, each inside its slot's gate: so nothing outside the gate reads a gated gradient, and its computation moves into the
 * gate as well. A closed gate counts 0 and gives a value of the slot in the gradient's place, which nobody reads: zeros would be one more constant of that size.
 */
function measure(gradients: Gradients, inputs: Inputs, optimizer: OptimizerState): { gradients: Gradients; norm: Tensor } {
  const measured = new Map<Slot, Tensor>();
  const squares = new Map<Slot, Tensor>();
  for (const { gate, slots } of sections(optimizer)) {
    const results = gated(
      gate,
      inputs,
      () => [...slots.map((slot) => gradients.get(slot)!), ...slots.map((slot) => square(gradients.get(slot)!))],
      () => [...slots.map(presentValue), ...slots.map(() => fill([], 0))],
    );
    for (const [i, slot] of slots.entries()) {
      measured.set(slot, results[i]!);
      squares.set(slot, results[slots.length + i]!);
    }
  }
  // In the order of the slots, so that gates change no rounding.
  const norm = atPath("optimizer/clip", () => sqrt([...gradients.keys()].map((slot) => squares.get(slot)!).reduce((a, b) => add(a, b))));
  return { gradients: measured, norm };
}

const presentValue = (slot: Slot): Tensor => joined(slot, (p) => p.value);

/** Clips and applies gradients; returns their norm before clipping. */
function applyGradients(raw: Gradients, inputs: Inputs, { optimizer, maxGradientNorm }: StepOptions): Tensor {
  const { gradients, norm } = measure(raw, inputs, optimizer);
  // The small constant and the order of operations are PyTorch's (clip_grad_norm_).
  const scale =
    maxGradientNorm === undefined ? undefined : atPath("optimizer/clip", () => minimum(div(maxGradientNorm, add(norm, 1e-6)), 1));
  const update = (slot: Slot) =>
    atPath(`optimizer/${slot.name}`, (): (readonly [Variable, Tensor])[] => {
      const gradient = scale ? mul(gradients.get(slot)!, scale) : gradients.get(slot)!;
      const { value, state } = optimizer.update(slot, {
        value: presentValue(slot),
        gradient,
        scalars: scalarsOf(slot.group, inputs, optimizer),
      });
      return [...state, ...parted(slot, value)];
    });
  for (const { gate, slots } of sections(optimizer)) {
    const variables: Variable[] = [];
    const values = gated(
      gate,
      inputs,
      () => {
        const next = slots.flatMap(update);
        variables.push(...next.map(([v]) => v));
        return next.map(([, value]) => value);
      },
      () => variables.map(read),
    );
    for (const [i, v] of variables.entries()) assign(v, values[i]!);
  }
  return norm;
}

const scalarsOf = (group: ParameterGroup, inputs: Inputs, optimizer: OptimizerState): Inputs =>
  Object.fromEntries(Object.keys(optimizer.scalars(group, 1, 0)).map((scalar) => [scalar, inputs[scalarName(group, scalar)]!]));

/** The objective, and the gradients of what `lossOf` makes of it. */
function traceLoss(options: StepOptions, inputs: Inputs, lossOf: (total: Tensor, weight: Tensor) => Tensor) {
  const { objective, rematerialise, compute = "float32" } = options;
  return computingIn(compute, () => {
    const { total, weight } = inTraining(() => atPath("loss", () => traceObjective(objective, inputs)), { rematerialise });
    return { total, weight, gradients: atPath("loss", () => gradientsOf(lossOf(total, weight), inputs, options)) };
  });
}

function requireParameters({ groups }: OptimizerState): void {
  if (groups.every(({ parameters }) => parameters.length === 0))
    throw new EspalierError("nothing-to-train", "No parameter is trainable: add a method such as lora(…), or unfreeze part of the model.");
}

/** One training step as one graph: loss, gradients, clipping and update. */
export function traceStep(types: Readonly<Record<string, TensorType>>, options: StepOptions): Traced {
  requireParameters(options.optimizer);
  return trace({ ...types, ...stepInputs(options.optimizer) }, (inputs) => {
    const { total, weight, gradients } = traceLoss(options, inputs, (total, weight) => div(total, divisor(weight)));
    return { total, weight, gradientNorm: applyGradients(gradients, inputs, options) };
  });
}

/** Gradients summed over several batches before one update. */
export class Accumulator {
  readonly #options: StepOptions;
  readonly #sums: ReadonlyMap<Slot, Variable>;
  readonly #weight = zeroState("accumulated.weight", []);

  constructor(options: StepOptions) {
    requireParameters(options.optimizer);
    this.#options = options;
    this.#sums = new Map(options.optimizer.slots.map((slot) => [slot, zeroState(`accumulated.${slot.name}`, slot.shape)]));
  }

  /** Adds the gradients of one batch's total loss to the sums; those behind a closed gate are not computed. */
  traceBatch(types: Readonly<Record<string, TensorType>>): Traced {
    const { optimizer } = this.#options;
    return trace({ ...types, ...stepInputs(optimizer) }, (inputs) => {
      const { total, weight, gradients } = traceLoss(this.#options, inputs, (total) => total);
      for (const { gate, slots } of sections(optimizer)) {
        const variables = slots.map((slot) => this.#sums.get(slot)!);
        const next = gated(
          gate,
          inputs,
          () => slots.map((slot, i) => atPath(`optimizer/${slot.name}`, () => add(read(variables[i]!), gradients.get(slot)!))),
          () => variables.map(read),
        );
        for (const [i, v] of variables.entries()) assign(v, next[i]!);
      }
      assign(
        this.#weight,
        atPath("loss", () => add(read(this.#weight), weight)),
      );
      return { total, weight };
    });
  }

  /** Clears the sums without an update. */
  clear(device: Device): void {
    for (const v of [...this.#sums.values(), this.#weight]) device.write(v, new Float32Array(elementCount(v.shape)));
  }

  /** Divides by the total weight, so that the update equals that of one large batch, applies it and clears the sums. */
  traceUpdate(): Traced {
    const { optimizer } = this.#options;
    return trace(stepInputs(optimizer), (inputs) => {
      const weight = atPath("loss", () => divisor(read(this.#weight)));
      const gradients = new Map([...this.#sums].map(([slot, v]) => [slot, atPath(`optimizer/${slot.name}`, () => div(read(v), weight))]));
      const gradientNorm = applyGradients(gradients, inputs, this.#options);
      for (const v of [...this.#sums.values(), this.#weight])
        assign(
          v,
          atPath("optimizer/clear", () => fill(v.shape, 0)),
        );
      return { gradientNorm };
    });
  }
}
