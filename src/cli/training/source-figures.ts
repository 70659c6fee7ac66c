import { mixBatches } from "../../data/index.ts";
import type { Task } from "../../train/tasks/task.ts";
import { formatPercent } from "../terminal.ts";

/** A source as a task of its own. */
export interface SourceTask {
  name: string;
  weight: number | undefined;
  task: Task;
  /** Whether it has held-out data of its own. */
  measured: boolean;
}

/** The task of all data, whose batches come from one source each, as often as the weights say. */
export function mixedTask(whole: Task, parts: readonly SourceTask[], seed: number): Task {
  const sources = parts.map(
    ({ name, weight, task }) => [name, { source: task.train, weight: weight ?? task.train.batchesPerEpoch }] as const,
  );
  const train = mixBatches(Object.fromEntries(sources), { seed });
  const note = sharesNote("batches", Object.fromEntries(sources.map(([name, { weight }]) => [name, weight])));
  return withSourceFigures({ ...whole, train, notes: [...whole.notes, note] }, parts);
}

export function sharesNote(what: string, weights: Readonly<Record<string, number>>): string {
  const total = Object.values(weights).reduce((a, b) => a + b, 0);
  return `${what} by source: ${Object.entries(weights)
    .map(([name, weight]) => `${name} ${formatPercent(weight / total)}`)
    .join(", ")}`;
}

/** The task, which also states what it reaches on the held-out data of each source: `mail.accuracy`. */
export function withSourceFigures(whole: Task, parts: readonly SourceTask[]): Task {
  return {
    ...whole,
    async evaluate(onProgress) {
      const figures = { ...(await whole.evaluate(onProgress)) };
      for (const { name, task, measured } of parts) {
        if (!measured) continue;
        for (const [metric, value] of Object.entries(await task.evaluate(onProgress))) figures[`${name}.${metric}`] = value;
      }
      return figures;
    },
    async dispose() {
      for (const { task } of parts) await task.dispose();
      await whole.dispose();
    },
  };
}
