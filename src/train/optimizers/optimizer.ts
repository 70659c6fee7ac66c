import type { Tensor, Variable } from "../../graph/index.ts";
import type { Parameter } from "../../nn/index.ts";
import type { Schedule } from "../schedules.ts";

/** Parameters that share the scalars of their updates: the learning rate, the weight decay and the number of updates so far. */
export interface ParameterGroup {
  /** Unique among the groups of a run; empty for the parameters that nobody sets apart. */
  readonly name: string;
  readonly parameters: readonly Parameter[];
  /** In place of the run's peak learning rate. */
  readonly learningRate?: number;
  /** Factor on the peak learning rate. Default 1. */
  readonly learningRateFactor?: number;
  /** In place of the run's schedule. */
  readonly schedule?: Schedule;
  /** In place of the optimizer's weight decay. */
  readonly weightDecay?: number;
  /** The run-time gate that the group's updates wait for. Absent: updated at every step. */
  readonly gate?: string;
}

/** What is updated as one tensor: a parameter, or several small ones of a group, laid end to end. See {@link slotsOf}. */
export interface Slot {
  /** Unique in the run: the parameter's name, or that of the first of several with their number. */
  readonly name: string;
  readonly group: ParameterGroup;
  readonly parameters: readonly Parameter[];
  /** The parameter's shape, or [the elements of all]. */
  readonly shape: readonly number[];
}

/** A rule that turns gradients into updates. Its arithmetic is part of the training graph. */
export interface Optimizer {
  readonly name: string;
  /** The peak learning rate; a schedule scales it. */
  readonly learningRate: number;
  /** Options with their defaults filled in, as recorded in the run. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Allocates the state for these parameters. */
  create(groups: readonly ParameterGroup[]): OptimizerState;
}

export interface OptimizerState {
  readonly groups: readonly ParameterGroup[];
  readonly slots: readonly Slot[];
  /** Moments and the like, saved in every checkpoint; names are `<slot>.<moment>`. */
  readonly variables: readonly Variable[];
  /** Averages of the weights, where the run keeps them; among the variables. See `average.ts`. */
  readonly averages?: ReadonlyMap<Parameter, Variable>;
  /** Numbers of the rule that may be set between two steps; programs are compiled without them. The learning rate is given to each step. */
  readonly hyperparameters: Record<string, number>;
  /**
   * Scalars of a group's update, computed on the host in double precision and fed to each run. `step` counts the updates of this group from 1, this
   * one included: a group that was added late or skipped steps has a bias correction of its own. The learning rate is the group's.
   */
  scalars(group: ParameterGroup, step: number, learningRate: number): Record<string, number>;
  /** Traces the update of one slot. The caller assigns the results, so that an update may stand inside a run-time gate. */
  update(slot: Slot, operands: UpdateOperands): SlotUpdate;
}

export interface UpdateOperands {
  /** The present value and its gradient, both of the slot's shape. */
  value: Tensor;
  gradient: Tensor;
  /** The group's scalars, float32 [], by their names. */
  scalars: Readonly<Record<string, Tensor>>;
}

/** What a slot's value and its state become. */
export interface SlotUpdate {
  value: Tensor;
  state: readonly (readonly [Variable, Tensor])[];
}

/** The usual case: one group of all parameters. */
export const oneGroup = (parameters: readonly Parameter[]): readonly ParameterGroup[] => [{ name: "", parameters }];
