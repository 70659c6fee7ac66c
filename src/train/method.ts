import type { BatchSource } from "../data/index.ts";
import type { Variable } from "../graph/index.ts";
import type { Module, Parameter } from "../nn/index.ts";
import type { Device, HostTensor } from "../runtime/index.ts";
import type { Objective } from "./objectives/index.ts";
import type { Schedule } from "./schedules.ts";
import type { StepReport } from "./train-options.ts";

/**
 * What a published method changes about training. Each seam is optional; methods compose in the order in which they are given, and the trainer
 * knows none by name.
 */
export interface Method {
  /** The method's slug, as in the catalogue. */
  readonly name: string;
  /** Options with their defaults filled in, as recorded in the run. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Rewrites the module tree and unfreezes what the method trains. The model comes frozen; what methods before have unfrozen stays so. */
  weights?(model: Module): void;
  /** Wraps the objective. */
  objective?(base: Objective): Objective;
  /** Reorders, mixes or changes the training data. Batches are asked for ahead of their step. */
  data?(source: BatchSource): BatchSource;
  /** Sets parameters apart that have a learning rate or weight decay of their own. */
  group?(parameter: Parameter): GroupOptions | undefined;
  /** Chooses at each step which parameters are updated. Called once, with the trained parameters. */
  selection?(parameters: readonly Parameter[]): Selection;
  /** Further inputs of the training graph, fed at each step (from 1); the objective finds them under their names. The same names and shapes every time. */
  inputs?(step: number): Readonly<Record<string, HostTensor>>;
  /** What the method keeps in the graph from step to step; saved with every checkpoint. */
  readonly variables?: readonly Variable[];
  /** What the method keeps on the host, as JSON; saved with every checkpoint. */
  state?(): unknown;
  /** Puts the state of a checkpoint back. */
  restore?(state: unknown): void;
  /** Called after every step, before a checkpoint of it is written. */
  afterStep?(report: StepReport, context: StepContext): void | Promise<void>;
  /** Writes what was trained, in the method's own format. */
  save?(directory: string, context: SaveContext): void | Promise<void>;
  /** Puts onto a base model what {@link save} wrote. */
  load?(model: Module, directory: string): void;
  /** Folds what was trained into the base weights, so that the model costs what the base model costs. The method may be applied anew afterwards. */
  merge?(model: Module, device: Device): void;
}

export interface GroupOptions {
  /** Parameters whose groups have the same name share one. */
  readonly name: string;
  /** In place of the run's peak learning rate. */
  readonly learningRate?: number | undefined;
  /** Factor on the peak learning rate. Default 1. */
  readonly learningRateFactor?: number | undefined;
  /** In place of the run's schedule. */
  readonly schedule?: Schedule | undefined;
  /** In place of the optimizer's weight decay. */
  readonly weightDecay?: number | undefined;
}

/**
 * Run-time gates. Where a gate is closed, neither gradients nor updates are computed: parameters, moments, number of updates and decay stay as they
 * are. A parameter that several methods gate is updated when all of its gates are open.
 */
export interface Selection {
  /** The gate of each parameter that has one; the others are always updated. */
  readonly gates: ReadonlyMap<Parameter, string>;
  /** For each gate, whether it is open in this step (from 1). Called once for each step, in order. */
  choose(step: number): Readonly<Record<string, boolean>>;
}

export interface StepContext {
  model: Module;
  device: Device;
  /** Objective and data as the methods have made them: for a method that measures something of its own. */
  objective: Objective;
  data: BatchSource;
}

export interface SaveContext {
  model: Module;
  /** Where the base model was loaded from. */
  base?: string;
  /** Trained parameters with their present values in `storage`. */
  parameters: readonly Parameter[];
  /** Where values live that are computed from the parameters, such as what a prompt encoder makes of them. */
  device?: Device;
}

const applied = new WeakMap<Module, Set<Method>>();

/**
 * Lets each method rewrite the model, once: the trainer does it too, and finds it done. The model is frozen before the first of them, so that the
 * methods say what is trained, and each adds to what those before it train.
 */
export function applyWeights(model: Module, methods: readonly Method[]): void {
  const done = applied.get(model) ?? new Set();
  applied.set(model, done);
  for (const method of methods) {
    if (!method.weights || done.has(method)) continue;
    if (done.size === 0) model.freeze();
    method.weights(model);
    done.add(method);
  }
}

/** Forgets that methods of this name have rewritten the model, because their rewriting was undone. Returns how to remember. */
export function forgetWeights(model: Module, name: string): () => void {
  const done = applied.get(model);
  const forgotten = [...(done ?? [])].filter((method) => method.name === name);
  for (const method of forgotten) done!.delete(method);
  return () => {
    for (const method of forgotten) done!.add(method);
  };
}
