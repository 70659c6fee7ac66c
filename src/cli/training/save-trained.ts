import { join } from "node:path";
import { writeJson } from "../../checkpoints/index.ts";
import { saveModel } from "../../models/index.ts";
import type { Device } from "../../runtime/index.ts";
import type { Method } from "../../train/method.ts";
import { taskKind } from "../../train/tasks/table.ts";
import type { Task } from "../../train/tasks/task.ts";
import { recordFile } from "../task-record.ts";

/** Saves what was trained into `adapter/`, or the whole model into `trained-model/` when no method has a format of its own. Returns the directory. */
export async function saveTrained(
  run: string,
  { model, record }: Task,
  methods: readonly Method[],
  { base, source, device }: { base: string; source: string; device: Device },
): Promise<string> {
  const adapted = methods.some((method) => method.save);
  const directory = join(run, adapted ? "adapter" : "trained-model");
  const context = { model, base, parameters: model.trainableParameters(), device };
  for (const method of methods) await method.save?.(directory, context);
  if (!adapted) saveModel(directory, model, { source, ...taskKind(record.task)?.saved?.(record) });
  writeJson(join(directory, recordFile), record);
  return directory;
}
