import type { FileHash } from "../../checkpoints/index.ts";
import { type Example, splitExamples } from "../../data/index.ts";
import { cachedDuplicateGroups } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Device } from "../../runtime/index.ts";
import type { Loaded, TaskOptions } from "../../train/tasks/kind.ts";
import type { AnyTaskKind, TaskRecord } from "../../train/tasks/table.ts";
import type { Task, TaskData } from "../../train/tasks/task.ts";
import type { TrainFlags } from "../config/resolve-run.ts";
import { flagName } from "../config/run-option.ts";
import type { DataSource } from "../data-sources.ts";
import type { Terminal } from "../terminal.ts";
import type { Patience } from "./patience.ts";
import { mixedTask, type SourceTask } from "./source-figures.ts";

/** What data are read for, and who is told of it. */
export interface DataContext {
  kind: AnyTaskKind;
  sources: readonly DataSource[];
  flags: TrainFlags;
  device: Device;
  terminal: Terminal;
  patience: Patience;
  /** Where prepared data are kept. */
  cache: string | false;
}

/** The data of a run: in memory, or read when they are due. */
export interface TrainingData {
  /** Empty where they are not in memory. */
  train: readonly Example[];
  heldOut: readonly Example[];
  /** How many training examples have each label, where they are not in memory. */
  labels?: ReadonlyMap<string, number>;
  /** Of files, by their whole paths, as far as they are known. */
  hashes: ReadonlyMap<string, FileHash>;
  task(loaded: Loaded, record: TaskRecord): Promise<Task>;
}

/** What all tasks of a run are given. */
export function taskSettings({ flags, cache, terminal, patience }: DataContext): Omit<TaskData, "train" | "heldOut"> {
  const { batchSize, seed, packing, buckets, maxShapes } = flags as TrainFlags & TaskOptions;
  return {
    batchSize,
    seed,
    cache: {
      cache,
      onNotice: (message) => terminal.line(message),
      onProgress: patience.of("tokenise", "texts"),
    },
    ...(buckets && { buckets }),
    ...(maxShapes !== undefined && { maxShapes }),
    ...(packing && { packing }),
  };
}

/** Data that are read whole. */
export function wholeData(context: DataContext): TrainingData {
  const { kind, sources, flags, device } = context;
  if (flags.shuffleWindow !== undefined)
    throw new EspalierError(
      "bad-option",
      `${flagName("shuffleWindow")} speaks of data that are read piece by piece: give --streaming, or leave it out.`,
    );
  const origin = new Map<Example, DataSource>();
  const all = sources.flatMap((source) => {
    const examples: Example[] = kind.read(source.path, flags);
    for (const example of examples) origin.set(example, source);
    return examples;
  });
  const { train, heldOut } = hold(all, context);
  const own = (examples: readonly Example[], source: DataSource) => examples.filter((example) => origin.get(example) === source);
  for (const source of sources.length > 1 ? sources : [])
    if (own(train, source).length === 0)
      throw new EspalierError(
        "data-sources",
        `${source.path}: nothing of it is left to train on: all its examples are held out or stand in other sources too. Leave it out, or give --eval-data.`,
      );
  return {
    train,
    heldOut,
    hashes: new Map(),
    async task(loaded, record) {
      const settings = taskSettings(context);
      const whole = kind.task(loaded, { ...settings, train, heldOut }, record, device);
      if (sources.length === 1) return whole;
      const parts = sources.map((source): SourceTask => {
        const held = flags.evalData === undefined ? own(heldOut, source) : [];
        const data = { ...settings, train: own(train, source), heldOut: held.length > 0 ? held : heldOut };
        return { ...source, task: kind.task(loaded, data, whole.record as TaskRecord, device), measured: held.length > 0 };
      });
      return mixedTask(whole, parts, flags.seed);
    },
  };
}

function hold(
  examples: readonly Example[],
  { kind, flags, terminal, patience, cache }: DataContext,
): { train: readonly Example[]; heldOut: readonly Example[] } {
  const { evalData, heldOut: share = 0.2, seed } = flags;
  if (evalData !== undefined) return { train: examples, heldOut: kind.read(evalData, flags) };
  // One long text is cut in two: its last part is held out.
  if (kind.cutsTexts && examples.length === 1) {
    const [example] = examples as [Example];
    const cut = Math.floor(example.text.length * (1 - share));
    return { train: [{ ...example, text: example.text.slice(0, cut) }], heldOut: [{ ...example, text: example.text.slice(cut) }] };
  }
  const onProgress = patience.of("compare", "texts, to find near-duplicates");
  const groupsOf = (texts: readonly string[]) =>
    cachedDuplicateGroups(texts, { cache, onNotice: (message) => terminal.line(message), onProgress });
  const { train, heldOut, duplicatesRemoved } = splitExamples(examples, { heldOut: share, seed, groupsOf });
  if (duplicatesRemoved > 0)
    terminal.line(duplicatesRemoved === 1 ? "1 duplicate was removed." : `${duplicatesRemoved} duplicates were removed.`);
  return { train, heldOut };
}
