import type { Example, RecordSource } from "../../data/index.ts";
import type { OpenRecords } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import type { TaskOptions } from "../../train/tasks/kind.ts";
import { taskKinds } from "../../train/tasks/table.ts";
import { formatBytes } from "../terminal.ts";
import { type SourceTask, sharesNote, withSourceFigures } from "./source-figures.ts";
import { type DataContext, type TrainingData, taskSettings } from "./training-data.ts";

/** Without --held-out; what is held out is read whole. */
const defaultShare = 0.01;

/** Training data of which only what the next batches need is in memory. */
export async function streamedData(context: DataContext): Promise<TrainingData> {
  const { kind, sources, flags, device, terminal, patience, cache } = context;
  const streaming = kind.streaming;
  if (!streaming) {
    const able = taskKinds.filter((other) => other.streaming).map(({ name }) => name);
    throw new EspalierError(
      "bad-option",
      `--streaming is for ${able.join(", ")}, and this is ${kind.name}, which needs all its data at once. Leave it out.`,
    );
  }
  if ((flags as TaskOptions).packing)
    throw new EspalierError(
      "bad-option",
      "--packing fits all texts into rows at once, and --streaming never has all of them. Leave one of them out.",
    );
  const share = flags.evalData === undefined ? (flags.heldOut ?? defaultShare) : 0;
  const opened: OpenRecords<Example>[] = [];
  const close = () => {
    for (const records of opened) records.close();
  };
  try {
    for (const { path } of sources) {
      const onProgress = patience.of("read", path, formatBytes);
      const common = { cache, onNotice: (message: string) => terminal.line(message) };
      opened.push(await streaming.open(path, { ...flags, ...common, heldOut: share, seed: flags.seed, onProgress }));
    }
    const parts = flags.evalData === undefined ? opened.map(({ heldOut }) => all(heldOut)) : [];
    const heldOut: readonly Example[] = flags.evalData === undefined ? parts.flat() : kind.read(flags.evalData, flags);
    refuseEmpty(context, opened, heldOut, share);
    const labels = new Map<string, number>();
    for (const records of opened) for (const [label, count] of records.labels) labels.set(label, (labels.get(label) ?? 0) + count);
    for (const { label } of parts.flat()) if (label !== undefined) labels.set(label, labels.get(label)! - 1);
    for (const [label, count] of labels) if (count === 0) labels.delete(label);
    return {
      train: [],
      heldOut,
      labels,
      hashes: new Map(opened.flatMap(({ files }) => [...files])),
      async task(loaded, record) {
        const settings = taskSettings(context);
        const base = kind.task(loaded, { ...settings, train: [], heldOut }, record, device);
        const named = sources.map(({ name, weight }, i) => [name, { records: opened[i]!.train, weight }] as const);
        const learnt = await streaming.train(
          loaded,
          {
            ...settings,
            cache: settings.cache!,
            sources: Object.fromEntries(named),
            labels,
            heldOut,
            ...(flags.shuffleWindow !== undefined && { window: flags.shuffleWindow }),
          },
          record,
        );
        const split =
          share > 0 ? ["the held-out records were chosen by a hash of each text; near-duplicates of them may stand in training"] : [];
        const shares =
          sources.length > 1
            ? [sharesNote("draws", Object.fromEntries(named.map(([name, { records, weight }]) => [name, weight ?? records.length])))]
            : [];
        const measured: SourceTask[] =
          sources.length > 1 && share > 0
            ? sources.flatMap((source, i) =>
                parts[i]!.length === 0
                  ? []
                  : [
                      {
                        ...source,
                        task: kind.task(loaded, { ...settings, train: [], heldOut: parts[i]! }, record, device),
                        measured: true,
                      },
                    ],
              )
            : [];
        const { train, notes, majority } = learnt;
        const task = withSourceFigures(
          { ...base, train, notes: [...notes, ...split, ...shares, ...(base.heldOutNotes ?? [])], ...(majority && { majority }) },
          measured,
        );
        return {
          ...task,
          async dispose() {
            await task.dispose();
            learnt.close?.();
            close();
          },
        };
      },
    };
  } catch (error) {
    close();
    throw error;
  }
}

const all = <R>(source: RecordSource<R>): R[] => Array.from({ length: source.chunkSizes.length }, (_, i) => source.chunk(i)).flat();

function refuseEmpty({ sources }: DataContext, opened: readonly OpenRecords<Example>[], heldOut: readonly Example[], share: number): void {
  const bare = opened.findIndex(({ train }) => train.length === 0);
  if (bare >= 0)
    throw new EspalierError(
      "data-split",
      `${sources[bare]!.path}: all its records are held out, and none is left to train on. Give a smaller --held-out, or --eval-data.`,
    );
  if (heldOut.length > 0) return;
  const records = opened.reduce((n, { train }) => n + train.length, 0);
  throw new EspalierError(
    "data-split",
    `Of the ${records} records none fell into the share of ${share} that is held out. Give a larger --held-out, or --eval-data.`,
  );
}
