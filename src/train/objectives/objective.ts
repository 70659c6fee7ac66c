import type { Tensor } from "../../graph/index.ts";
import type { Parameter } from "../../nn/index.ts";

/** What training minimises: `total / weight`, where both add up over the parts of a batch. */
export interface Objective {
  readonly name: string;
  /** What it trains beside the model's parameters, as a projection between two widths. They go into checkpoints and are not saved with the model. */
  readonly parameters?: readonly Parameter[];
  /** Traces the objective over one batch's inputs. Further outputs serve the evaluation. */
  trace(inputs: Readonly<Record<string, Tensor>>): ObjectiveOutputs;
}

export interface ObjectiveOutputs {
  /** Sum of the losses, a scalar. */
  total: Tensor;
  /** Number (or weight) of the targets, a scalar. */
  weight: Tensor;
  outputs?: Readonly<Record<string, Tensor>>;
}
