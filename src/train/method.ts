import type { BatchSource } from "../data/index.ts";
import type { Module, Parameter } from "../nn/index.ts";
import type { Objective } from "./objectives.ts";

/**
 * What a published method changes about training. Each seam is optional; methods compose in the order in which they are given, and the trainer
 * knows none by name.
 */
export interface Method {
  /** The method's slug, as in the catalogue. */
  readonly name: string;
  /** Options with their defaults filled in, as recorded in the run. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Rewrites the module tree and decides which parameters are trained. */
  weights?(model: Module): void;
  /** Wraps the objective. */
  objective?(base: Objective): Objective;
  /** Reorders, mixes or changes the training data. */
  data?(source: BatchSource): BatchSource;
  /** Writes what was trained, in the method's own format. */
  save?(directory: string, context: SaveContext): void;
}

export interface SaveContext {
  model: Module;
  /** Where the base model was loaded from. */
  base?: string;
  /** Trained parameters with their present values in `storage`. */
  parameters: readonly Parameter[];
}

const applied = new WeakMap<Module, Set<Method>>();

/** Lets each method rewrite the model, once: the trainer does it too, and finds it done. */
export function applyWeights(model: Module, methods: readonly Method[]): void {
  const done = applied.get(model) ?? new Set();
  applied.set(model, done);
  for (const method of methods) {
    if (done.has(method)) continue;
    method.weights?.(model);
    done.add(method);
  }
}
