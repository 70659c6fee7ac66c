import { readFileSync } from "node:fs";
import { Command } from "commander";
import { EspalierError } from "../../graph/index.ts";
import { messageText } from "../../inputs/email/message.ts";
import type { BaseDtype } from "../../models/index.ts";
import { openDevice } from "../../runtime/open-device.ts";
import { Classifier } from "../../train/tasks/classifier.ts";
import { openClassifier } from "../adapted.ts";
import { runFlag } from "../config/flags.ts";
import type { RunOptions } from "../config/run-options.ts";
import { formatPercent, Terminal } from "../terminal.ts";

interface ClassifyFlags extends Pick<RunOptions, "device"> {
  adapter?: string;
  baseDtype: BaseDtype;
  model?: string;
  json?: boolean;
}

export function classifyCommand(): Command {
  return new Command("classify")
    .description("Label files with a trained classifier: .eml is read as an e-mail, anything else as text.")
    .argument("<files...>", "files to label")
    .option("--adapter <adapter>", "adapter that espalier train saved: a directory, or org/name on the Hub")
    .option(
      "--model <model>",
      "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own), or without --adapter a whole classifier",
    )
    .addOption(runFlag("baseDtype"))
    .addOption(runFlag("device"))
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (files: string[], flags: ClassifyFlags, command: Command) => {
      const terminal = new Terminal();
      if (flags.adapter === undefined && flags.model === undefined)
        command.error("error: give --adapter, or the --model of a whole classifier");
      const { model, tokenizer, record } = await openClassifier(flags, flags.baseDtype);
      const texts = await Promise.all(files.map(readText));
      const classifier = new Classifier(model, tokenizer, await openDevice(flags.device), record);
      const { predictions, truncation } = await classifier.predict(texts);
      if (truncation.count > 0)
        terminal.line(
          `${truncation.count} of ${truncation.of} texts are longer than ${truncation.limit} tokens: only their beginnings were read.`,
        );
      const results = predictions.map(({ label, probabilities }, i) => ({
        file: files[i]!,
        label,
        probability: Math.max(...probabilities),
      }));
      for (const { file, label, probability } of results)
        terminal.line(`${label.padEnd(12)} ${formatPercent(probability).padStart(7)}  ${file}`);
      if (flags.json) terminal.json({ results });
      await classifier.dispose();
    });
}

async function readText(file: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw new EspalierError("file-missing", `${file} cannot be read (${(cause as NodeJS.ErrnoException).code}).`, { cause });
  }
  const text = file.endsWith(".eml") ? await messageText(bytes) : bytes.toString("utf8");
  if (text.trim() === "") throw new EspalierError("empty-text", `${file} holds no text.`);
  return text;
}
