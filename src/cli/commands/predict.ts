import { Command } from "commander";
import { EspalierError } from "../../graph/index.ts";
import type { BaseDtype } from "../../models/index.ts";
import { openDevice } from "../../runtime/open-device.ts";
import type { PredictionInput } from "../../train/tasks/kind.ts";
import { openAdapted } from "../adapted.ts";
import { runFlag } from "../config/flags.ts";
import type { RunOptions } from "../config/run-options.ts";
import { Terminal } from "../terminal.ts";

interface PredictFlags extends Pick<RunOptions, "device"> {
  adapter?: string;
  model?: string;
  baseDtype: BaseDtype;
  json?: boolean;
}

export function predictCommand(): Command {
  return new Command("predict")
    .description(
      "Ask a model that espalier train trained: labels of texts, words and images, numbers, texts of texts, what recordings say.",
    )
    .argument("<files...>", "texts, e-mails (.eml), images or directories of them, WAV files, or data files without labels")
    .option("--adapter <adapter>", "adapter that espalier train saved: a directory, or org/name on the Hub")
    .option(
      "--model <model>",
      "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own), or without --adapter a whole trained model",
    )
    .addOption(runFlag("baseDtype"))
    .addOption(runFlag("device"))
    .option("--json", "print the results as one JSON object in the last line")
    .action(async (files: string[], flags: PredictFlags, command: Command) => {
      const terminal = new Terminal();
      if (flags.adapter === undefined && flags.model === undefined)
        command.error("error: give --adapter, or the --model of a whole trained model");
      const { use, loaded } = await openAdapted(flags, { baseDtype: flags.baseDtype });
      const predictor = use?.kind.predictor?.(loaded, use.record, await openDevice(flags.device));
      if (!predictor)
        throw new EspalierError(
          "nothing-to-predict",
          `${flags.adapter ?? flags.model} ${use ? `was trained for ${use.kind.name}` : "has no record of what it was trained for"}, and predict knows no answer to that. Decoders that continue or answer texts are asked by espalier generate and espalier chat; espalier eval measures every task.`,
        );
      const inputs: PredictionInput[] = [];
      for (const file of files) inputs.push(...(await predictor.read(file)));
      const { results, notes } = await predictor.predict(inputs.map(({ input }) => input));
      for (const note of notes) terminal.line(note);
      const where = ({ file, line }: PredictionInput) => (line === undefined ? file : `${file}:${line}`);
      for (const [i, { shown }] of results.entries()) terminal.line(`${shown}  ${where(inputs[i]!)}`);
      if (flags.json)
        terminal.json({
          task: use!.kind.name,
          results: results.map(({ fields }, i) => {
            const { file, line } = inputs[i]!;
            return { file, ...(line !== undefined && { line }), ...fields };
          }),
        });
      await predictor.dispose();
    });
}
