import { relative } from "node:path";
import { Command, Option } from "commander";
import { addRunOptions, givenOptions } from "../config/flags.ts";
import { type GivenFlags, resolveRun, type TrainFlags } from "../config/resolve-run.ts";
import { modelDirectory } from "../model-directory.ts";
import { chooseRun } from "../run-choice.ts";
import { type Interruption, interruption } from "../signals.ts";
import { Terminal } from "../terminal.ts";
import type { Pause, TrainSummary } from "../training/summary.ts";
import { trainAndMeasure } from "../training/train-and-measure.ts";

export type { TrainFlags, TrainSummary };

export function trainCommand(): Command {
  const command = new Command("train").description("Adapt a pre-trained model to your data.");
  return addRunOptions(command, { headings: true, without: "defaults" })
    .option("--config <file>", "options of the run (default: espalier.config.ts, if there is one)")
    .option("--no-config", "read no configuration")
    .option("--resume [run]", "continue from the run's newest checkpoint, with the options that it was started with")
    .addOption(new Option("--replace", "replace the run that the directory holds").conflicts("resume"))
    .action(async (_: unknown, self: Command) => {
      const terminal = new Terminal();
      const { flags, config } = await resolveRun(givenOptions<GivenFlags>(self));
      if (config) terminal.line(`Options from ${relative(process.cwd(), config.file) || config.file}.`);
      const summary = await runTrain(flags, terminal);
      if (flags.json) terminal.json(summary);
    });
}

/** The options of `espalier train` from arguments, with all defaults and without a configuration, for programs that run it themselves. */
export async function parseTrainFlags(args: readonly string[]): Promise<TrainFlags> {
  const command = trainCommand()
    .exitOverride()
    .action(() => {});
  const given = givenOptions<GivenFlags>(command.parse([...args], { from: "user" }));
  return (await resolveRun({ ...given, config: false })).flags;
}

/** The whole of `espalier train`; with `pause` a part of it, from which it goes on exactly. */
export async function runTrain(flags: TrainFlags, terminal: Terminal, pause?: Pause): Promise<TrainSummary> {
  chooseRun(flags); // a run that must stay is told of before a download
  const directory = await modelDirectory(flags.model);
  let interrupt: Interruption | undefined;
  // Until there is something to save, Ctrl-C ends the process as it does any other, whatever holds the thread.
  const listen = () => {
    interrupt = interruption(() => {
      terminal.line("Stopping after this step; what was trained is saved. Press Ctrl-C again to stop at once.");
      terminal.showCursor();
    });
    return interrupt;
  };
  try {
    return await trainAndMeasure(flags, { directory, terminal, listen, pause });
  } finally {
    interrupt?.dispose();
    terminal.stopProgress();
  }
}
