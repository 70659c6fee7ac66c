import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject } from "../checkpoints/index.ts";
import { EspalierError, fewProblems, show } from "../graph/index.ts";
import { type TaskRecord, taskKind, taskNames } from "../train/tasks/table.ts";

/** Lies beside an adapter or a whole model that `espalier train` or `espalier merge` saved. */
export const recordFile = "espalier.json";

/** What was trained, as recorded beside an adapter or a model; undefined for one that came from elsewhere. */
export function readTaskRecord(directory: string): TaskRecord | undefined {
  const file = join(directory, recordFile);
  if (!existsSync(file)) return undefined;
  const json = readJsonObject(file);
  const kind = typeof json.task === "string" ? taskKind(json.task) : undefined;
  if (!kind) throw damaged(file, [`task: is ${show(json.task)}, and the tasks are ${taskNames.join(", ")}`]);
  const parsed = kind.record.safeParse(json);
  if (parsed.success) return parsed.data as TaskRecord;
  throw damaged(
    file,
    parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`),
  );
}

const damaged = (file: string, problems: readonly string[]) =>
  new EspalierError("adapter-record", `${file} is damaged: ${fewProblems(problems)}`);
