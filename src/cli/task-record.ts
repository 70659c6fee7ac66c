import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject } from "../checkpoints/index.ts";
import { EspalierError, fewProblems } from "../graph/index.ts";
import type { TaskRecord } from "../train/tasks/task.ts";

/** Lies beside an adapter or a whole model that `espalier train` or `espalier merge` saved. */
export const recordFile = "espalier.json";
const recordSchema: z.ZodType<TaskRecord> = z.union([
  z.object({
    task: z.literal("classification"),
    labels: z.array(z.string()).min(2),
    template: z.string(),
    maxLength: z.int().positive(),
    positive: z.string().optional(),
  }),
  z.object({ task: z.literal("language-modeling"), sequenceLength: z.int().positive() }),
  z.object({ task: z.literal("chat"), maxLength: z.int().positive(), chatFormat: z.string().optional() }),
]);

/** What was trained, as recorded beside an adapter or a model; undefined for one that came from elsewhere. */
export function readTaskRecord(directory: string): TaskRecord | undefined {
  const file = join(directory, recordFile);
  if (!existsSync(file)) return undefined;
  const parsed = recordSchema.safeParse(readJsonObject(file));
  if (!parsed.success)
    throw new EspalierError(
      "adapter-record",
      `${file} is damaged: ${fewProblems(parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`)).join("; ")}`,
    );
  return parsed.data;
}
