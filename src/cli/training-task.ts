import { openCheckpoint } from "../checkpoints/index.ts";
import { holdsConversations } from "../data/conversations.ts";
import { firstRecord } from "../data/first-record.ts";
import { holdsImages } from "../data/image-examples.ts";
import { type Example, splitExamples } from "../data/index.ts";
import { type CacheOptions, cacheDirectory } from "../data/records.ts";
import { EspalierError } from "../graph/index.ts";
import { familyOf, setBaseDtype } from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import type { DataSample, Loaded, TaskOptions } from "../train/tasks/kind.ts";
import { type AnyTaskKind, chooseTask, type TaskRecord, taskKinds } from "../train/tasks/table.ts";
import type { Task } from "../train/tasks/task.ts";
import type { TrainFlags } from "./commands/train.ts";
import { flagName } from "./config/run-option.ts";
import { readTaskRecord } from "./task-record.ts";
import { withTeacher } from "./teacher.ts";
import type { Terminal } from "./terminal.ts";

/** A task of `espalier train`, and what it was made of. */
export interface PreparedTask {
  task: Task;
  kind: AnyTaskKind;
  loaded: Loaded;
  record: TaskRecord;
  heldOut: readonly Example[];
}

/** Reads data and model of `espalier train`. */
export async function prepareTask(flags: TrainFlags, device: Device, terminal: Terminal): Promise<PreparedTask> {
  const { config, configFile } = openCheckpoint(flags.model);
  const family = familyOf(config, configFile);
  const kind = chooseTask(flags.task, () => sampleOf(flags.data, flags), family, flags.model);
  refuseForeignOptions(kind, flags);
  const read = (file: string): Example[] => kind.read(file, flags);
  const { train, heldOut } = hold(read(flags.data), kind, flags, read, terminal);
  const record = kind.plan({
    directory: flags.model,
    family,
    config,
    train,
    heldOut,
    options: flags,
    previous: readTaskRecord(flags.model),
  });
  const loaded = await kind.load(flags.model, record);
  setBaseDtype(loaded.model, flags.baseDtype);
  kind.begin?.(loaded, record, device);
  const { batchSize, seed, packing, buckets, maxShapes } = flags as TrainFlags & TaskOptions;
  const cache: CacheOptions = { cache: flags.cache ? cacheDirectory() : false, onNotice: (message) => terminal.line(message) };
  const lengths = { ...(buckets && { buckets }), ...(maxShapes !== undefined && { maxShapes }) };
  const task = kind.task(loaded, { train, heldOut, batchSize, seed, cache, ...lengths, ...(packing && { packing }) }, record, device);
  const learnt = await withTeacher(task, { kind, loaded, record, examples: train, flags });
  const { majority } = task;
  if (majority) terminal.line(`Held-out majority class "${majority.label}": accuracy ${majority.accuracy.toFixed(4)}.`);
  return { task: learnt, kind, loaded, record, heldOut };
}

/** What data look like, for {@link chooseTask}. */
export function sampleOf(path: string, options: TaskOptions): DataSample {
  const images = holdsImages(path);
  return { images, conversations: !images && holdsConversations(path), record: images ? undefined : firstRecord(path), options };
}

/** An option of another task would be passed over in silence. */
export function refuseForeignOptions(kind: AnyTaskKind, flags: object): void {
  const given = flags as Readonly<Record<string, unknown>>;
  for (const key of new Set(taskKinds.flatMap(({ options }) => options))) {
    if (given[key] === undefined || kind.options.includes(key)) continue;
    const owners = taskKinds.filter(({ options }) => options.includes(key)).map(({ name }) => name);
    throw new EspalierError(
      "bad-option",
      `${flagName(key)} is an option of ${owners.join(" and ")}, and this is ${kind.name}. Leave it out, or name another --task.`,
    );
  }
}

function hold(
  examples: Example[],
  kind: AnyTaskKind,
  flags: TrainFlags,
  read: (file: string) => Example[],
  terminal: Terminal,
): { train: readonly Example[]; heldOut: readonly Example[] } {
  if (flags.evalData !== undefined) return { train: examples, heldOut: read(flags.evalData) };
  // One long text is cut in two: its last part is held out.
  if (kind.cutsTexts && examples.length === 1) {
    const [example] = examples as [Example];
    const cut = Math.floor(example.text.length * (1 - flags.heldOut));
    return { train: [{ ...example, text: example.text.slice(0, cut) }], heldOut: [{ ...example, text: example.text.slice(cut) }] };
  }
  const { train, heldOut, duplicatesRemoved } = splitExamples(examples, { heldOut: flags.heldOut, seed: flags.seed });
  if (duplicatesRemoved > 0) terminal.line(`${duplicatesRemoved} duplicates were removed.`);
  return { train, heldOut };
}
