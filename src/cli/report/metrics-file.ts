import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface RunMetrics {
  /** In the order of the steps. */
  steps: { step: number; loss: number; learningRate: number; tokensPerSecond: number }[];
  /** Held-out metrics, the base model's as those of step 0. */
  evaluations: { step: number; metrics: Record<string, number> }[];
}

/** What `metrics.jsonl` of a run says; a line that a kill cut short is passed over. */
export function readMetrics(run: string): RunMetrics {
  const metrics: RunMetrics = { steps: [], evaluations: [] };
  const file = join(run, "metrics.jsonl");
  if (!existsSync(file)) return metrics;
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const entry = parsed(line);
    if (typeof entry?.step !== "number") continue;
    const { step, ...values } = entry as Record<string, unknown> & { step: number };
    const evaluation = Object.entries(values).filter(([name]) => name.startsWith("eval."));
    if (evaluation.length > 0)
      metrics.evaluations.push({
        step,
        metrics: Object.fromEntries(evaluation.map(([name, value]) => [name.slice("eval.".length), Number(value)])),
      });
    else
      metrics.steps.push({
        step,
        loss: Number(values.loss ?? Number.NaN), // null in JSON: not finite
        learningRate: Number(values.learningRate),
        tokensPerSecond: Number(values.tokensPerSecond),
      });
  }
  return metrics;
}

function parsed(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
