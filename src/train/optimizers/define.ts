import { z } from "zod";
import { EspalierError } from "../../graph/index.ts";
import type { Parameter } from "../../nn/index.ts";
import type { Optimizer, OptimizerState, ParameterGroup } from "./optimizer.ts";

/** An optimizer by its name: call it with options to get what the trainer takes. */
export interface OptimizerFactory<Input = Record<string, unknown>> {
  (options: Input): Optimizer;
  readonly optimizer: string;
  /** One line. */
  readonly summary: string;
  /** Options with types and defaults. */
  readonly schema: z.ZodObject;
}

type CommonOptions = { learningRate: number };

/** Defines an optimizer: its options, and the state that it allocates. Wrong options are refused with the name of the option. */
export function defineOptimizer<S extends z.ZodObject>(
  card: { name: string; summary: string },
  schema: S,
  create: (groups: readonly ParameterGroup[], options: z.output<S>) => OptimizerState,
): OptimizerFactory<z.input<S>> {
  const factory = (given: z.input<S>): Optimizer => {
    const parsed = schema.safeParse(given);
    if (!parsed.success) {
      const problems = parsed.error.issues.map((issue) => `  ${issue.path.join(".") || "options"}: ${issue.message}`);
      throw new EspalierError("bad-option", `${card.name}: wrong options:\n${problems.join("\n")}`);
    }
    const options = parsed.data;
    const { learningRate } = options as z.output<S> & CommonOptions;
    return { name: card.name, learningRate, options, create: (groups) => create(groups, options) };
  };
  return Object.assign(factory, { optimizer: card.name, summary: card.summary, schema });
}

const isMatrix = (parameter: Parameter): boolean => parameter.shape.length > 1;

/** A part of what was, from step to step. */
export const momentum = z.number().min(0).lt(1);
/** A question about a parameter, for programs: nothing that a file could hold. */
export const predicate = z.custom<(parameter: Parameter) => boolean>((value) => typeof value === "function", "must be a function");

/** What every optimizer is told. */
export const commonOptions = {
  /** Peak learning rate; a schedule scales it. */
  learningRate: z.number().nonnegative(),
  /** Weight decay, decoupled but for sgd: each update first takes this part of the learning rate off every weight. */
  weightDecay: z.number().nonnegative().default(0),
  /** Which parameters decay. Default: those with two or more axes, so that biases and norms do not. */
  decays: predicate.default(() => isMatrix),
};

/** The weight decay of a group: its own, or the optimizer's. */
export const decayOf = (group: ParameterGroup, weightDecay: number): number => group.weightDecay ?? weightDecay;

/** Whether a parameter's program has a decay at all. One that begins at 0 is left out, which saves a pass over the parameter, and stays 0. */
export const isDecayed = (
  group: ParameterGroup,
  parameter: Parameter,
  { weightDecay, decays }: { weightDecay: number; decays: (parameter: Parameter) => boolean },
): boolean => decayOf(group, weightDecay) > 0 && decays(parameter);
