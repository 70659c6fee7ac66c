import { Command } from "commander";
import { EspalierError } from "../../graph/index.ts";
import type { BaseDtype, Family } from "../../models/index.ts";
import { openDevice } from "../../runtime/open-device.ts";
import type { TaskOptions } from "../../train/tasks/kind.ts";
import { chooseTask, type TaskRecord, taskKind } from "../../train/tasks/table.ts";
import { type ModelUse, openAdapted } from "../adapted.ts";
import { addRunOptions } from "../config/flags.ts";
import type { RunOptions } from "../config/run-options.ts";
import { checkLength, integer } from "../options.ts";
import { Terminal } from "../terminal.ts";
import { refuseForeignOptions, sampleOf } from "../training-task.ts";

interface EvalFlags extends TaskOptions, Pick<RunOptions, "device"> {
  data: string;
  model?: string;
  adapter?: string;
  task?: string;
  baseDtype: BaseDtype;
  batchSize: number;
  json?: boolean;
}

export function evalCommand(): Command {
  const command = new Command("eval")
    .description("Measure a model, or a model with an adapter, on data.")
    .requiredOption("--data <path>", "data of the task that the model was trained for (docs/tasks.md), as train takes them")
    .option(
      "--model <model>",
      "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own, or the embedded sapling)",
    )
    .option("--adapter <adapter>", "adapter that espalier train saved: a directory, or org/name on the Hub")
    .option("--max-length <n>", "tokens per sequence (default: as trained, or 256)", integer(2));
  return addRunOptions(command, { keys: evalKeys })
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: EvalFlags) => {
      const terminal = new Terminal();
      const { use, loaded, base } = await openAdapted(flags, {
        baseDtype: flags.baseDtype,
        use: (base, family, config, record) => useFor(flags, { base, family, config, record }),
      });
      const { kind, record } = fitting(use!, loaded.model as { contextLength?: number }, flags);
      const examples = kind.read(flags.data, flags);
      const device = await openDevice(flags.device);
      const task = kind.task(loaded, { train: [], heldOut: examples, batchSize: flags.batchSize, seed: 0 }, record, device);
      if (task.length !== undefined) checkLength(task.length, task.model as { contextLength?: number }, base);
      for (const note of task.heldOutNotes ?? []) terminal.line(note);
      const bar = terminal.progress("evaluate", 1);
      const metrics = await task.evaluate((done, of) => bar.update(done, flags.data, of));
      bar.stop();
      for (const [name, value] of Object.entries(metrics)) terminal.line(`${name.padEnd(12)} ${value.toFixed(4)}`);
      if (flags.json) terminal.json({ task: task.name, metric: task.metric, examples: examples.length, ...metrics });
      await task.dispose();
    });
}

interface Opening {
  base: string;
  family: Family;
  config: unknown;
  record: TaskRecord | undefined;
}

const evalKeys = [
  ...(["task", "textColumn", "labelColumn", "tokensColumn", "sourceColumn", "targetColumn", "imageColumn", "audioColumn"] as const),
  ...(["chatFormat", "batchSize", "baseDtype", "device"] as const),
];

/** A model is measured for what it was trained for; one that continues texts, for what the data are. */
function useFor(flags: EvalFlags, { base, family, config, record }: Opening): ModelUse {
  const trained = record && taskKind(record.task)!;
  if (trained && !trained.interchangeable) {
    if (flags.task !== undefined && flags.task !== trained.name)
      throw new EspalierError("bad-option", `${base} is used for ${trained.name}, and --task asks for ${flags.task}. Leave it out.`);
    refuseForeignOptions(trained, flags);
    return { kind: trained, record: withLength({ kind: trained, record }, flags.maxLength) };
  }
  const kind = chooseTask(flags.task, () => sampleOf(flags.data, flags), family, base);
  refuseForeignOptions(kind, flags);
  const maxLength = flags.maxLength ?? (record && lengthOf(record));
  const heldOut = kind.read(flags.data, flags);
  const planned = kind.plan({ directory: base, family, config, train: [], heldOut, options: { ...flags, maxLength }, previous: record });
  return { kind, record: flags.maxLength === undefined ? planned : withLength({ kind, record: planned }, flags.maxLength) };
}

function withLength({ kind, record }: ModelUse, length: number | undefined): TaskRecord {
  if (length === undefined) return record;
  if (kind.withLength) return kind.withLength(record, length) as TaskRecord;
  throw new EspalierError("bad-option", `--max-length speaks of tokens, and ${kind.name} reads none. Leave it out.`);
}

const lengthOf = (record: TaskRecord): number | undefined => {
  const { maxLength, sequenceLength } = record as { maxLength?: number; sequenceLength?: number };
  return maxLength ?? sequenceLength;
};

/** A length that nobody asked for is no longer than the model's context. */
function fitting(use: ModelUse, { contextLength }: { contextLength?: number }, { maxLength }: EvalFlags): ModelUse {
  const length = lengthOf(use.record);
  if (maxLength !== undefined || contextLength === undefined || length === undefined || length <= contextLength) return use;
  return { ...use, record: withLength(use, contextLength) };
}
