import { EspalierError, reachable, type Tensor } from "../../graph/index.ts";
import type { Objective, ObjectiveOutputs } from "./objective.ts";

/**
 * Traces an objective. Rows of several documents (`documentStarts` among the inputs) are refused where the objective does not look at that input: its
 * documents would see each other, and nobody would notice.
 *
 * @throws EspalierError `packed-rows`
 */
export function traceObjective(objective: Objective, inputs: Readonly<Record<string, Tensor>>): ObjectiveOutputs {
  const traced = objective.trace(inputs);
  const { documentStarts } = inputs;
  if (documentStarts && !reachable([traced.total]).has(documentStarts.node))
    throw new EspalierError(
      "packed-rows",
      `The objective "${objective.name}" does not tell the documents of packed rows apart (it does not read \`documentStarts\`). Give each example a row of its own.`,
    );
  return traced;
}
