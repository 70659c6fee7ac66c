import { openCheckpoint } from "../checkpoints/index.ts";
import { holdsConversations } from "../data/conversations.ts";
import { dataFiles } from "../data/data-files.ts";
import { firstRecord } from "../data/first-record.ts";
import { holdsImages } from "../data/image-examples.ts";
import type { Example } from "../data/index.ts";
import { cacheDirectory } from "../data/records.ts";
import { statsOf } from "../data/text-file.ts";
import { EspalierError } from "../graph/index.ts";
import type { Family } from "../models/family.ts";
import { familyOf, setBaseDtype } from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import type { DataSample, Loaded, TaskOptions } from "../train/tasks/kind.ts";
import { type AnyTaskKind, chooseTask, type TaskRecord, taskKinds } from "../train/tasks/table.ts";
import type { Task } from "../train/tasks/task.ts";
import type { TrainFlags } from "./commands/train.ts";
import { flagName } from "./config/run-option.ts";
import { type DataSource, dataSources } from "./data-sources.ts";
import { readTaskRecord } from "./task-record.ts";
import { withTeacher } from "./teacher.ts";
import type { Terminal } from "./terminal.ts";
import { Patience } from "./training/patience.ts";
import { streamedData } from "./training/streamed-data.ts";
import { type DataContext, type TrainingData, wholeData } from "./training/training-data.ts";

/** A task of `espalier train`, and what it was made of. */
export interface PreparedTask extends Pick<TrainingData, "heldOut" | "hashes"> {
  task: Task;
  kind: AnyTaskKind;
  loaded: Loaded;
  record: TaskRecord;
}

/** Reads data and model of `espalier train`. */
export async function prepareTask(flags: TrainFlags, device: Device, terminal: Terminal): Promise<PreparedTask> {
  const { config, family, sources, kind } = chosenTask(flags);
  const patience = new Patience(terminal);
  const context: DataContext = { kind, sources, flags, device, terminal, patience, cache: flags.cache ? cacheDirectory() : false };
  const data = flags.streaming ? await streamedData(context) : wholeData(context);
  const { train, heldOut, labels, hashes } = data;
  const previous = readTaskRecord(flags.model);
  const record = kind.plan({ directory: flags.model, family, config, train, heldOut, ...(labels && { labels }), options: flags, previous });
  const loaded = await kind.load(flags.model, record);
  setBaseDtype(loaded.model, flags.baseDtype);
  kind.begin?.(loaded, record, device);
  const task = await data.task(loaded, record);
  patience.stop();
  const examples: readonly Example[] = train.length > 0 ? train : heldOut;
  const learnt = await withTeacher(task, { kind, loaded, record, examples, flags });
  const { majority } = task;
  if (majority) terminal.line(`Held-out majority class "${majority.label}": accuracy ${majority.accuracy.toFixed(4)}.`);
  return { task: learnt, kind, loaded, record, heldOut, hashes };
}

/** What is learnt, and from what. Of the data only the beginnings are read, of the model only what it is. */
export function chosenTask(flags: TrainFlags) {
  const { config, configFile } = openCheckpoint(flags.model);
  const family = familyOf(config, configFile);
  const sources = dataSources(flags.data);
  const kind = chooseKind(flags, sources, family);
  refuseForeignOptions(kind, flags);
  // What a directory must hold depends on the task.
  for (const path of [...sources.map(({ path }) => path), ...(flags.evalData === undefined ? [] : [flags.evalData])])
    if (!statsOf(path)?.isDirectory()) dataFiles(path);
  return { config, family, sources, kind };
}

/** The task that is named, or that all sources look like. */
function chooseKind(flags: TrainFlags, sources: readonly DataSource[], family: Family): AnyTaskKind {
  const kinds = sources.map(({ path }) => chooseTask(flags.task, () => sampleOf(path, flags), family, flags.model));
  const other = kinds.findIndex((kind) => kind !== kinds[0]);
  if (other < 0) return kinds[0]!;
  throw new EspalierError(
    "data-sources",
    `${sources[0]!.path} looks like data of ${kinds[0]!.name} and ${sources[other]!.path} like data of ${kinds[other]!.name}; all sources must be of one kind. Name what is learnt with --task, or train on one of them.`,
  );
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
