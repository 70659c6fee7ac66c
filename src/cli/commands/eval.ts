import { Command } from "commander";
import { holdsConversations, readConversations } from "../../data/conversations.ts";
import { readExamples } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import type { BaseDtype } from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { chatTask } from "../../train/tasks/chat.ts";
import { classificationTask } from "../../train/tasks/classification.ts";
import { languageModelingTask } from "../../train/tasks/language-modeling.ts";
import type { Task } from "../../train/tasks/task.ts";
import { type Adapted, openAdapted, openModel } from "../adapted.ts";
import { baseDtypeOption } from "../base-dtype-option.ts";
import { chatFormatOption, chatTemplateOf } from "../chat-format.ts";
import { defaultModel } from "../default-model.ts";
import { checkLength, integer } from "../options.ts";
import { Terminal } from "../terminal.ts";

interface EvalFlags {
  data: string;
  model?: string;
  adapter?: string;
  baseDtype: BaseDtype;
  textColumn?: string;
  labelColumn?: string;
  batchSize: number;
  maxLength?: number;
  chatFormat?: string;
  json?: boolean;
}

export function evalCommand(): Command {
  return new Command("eval")
    .description("Measure a model, or a model with an adapter, on data.")
    .requiredOption("--data <file>", "data: .jsonl or .csv with text (and label), .jsonl of conversations, or .txt")
    .option(
      "--model <model>",
      "base model, a directory or org/name on the Hugging Face Hub (default: the adapter's own, or the embedded sapling)",
    )
    .option("--adapter <adapter>", "adapter that espalier train saved: a directory, or org/name on the Hub")
    .option("--text-column <name>", "column or key of the text (default: text)")
    .option("--label-column <name>", "column or key of the label (default: label)")
    .option("--batch-size <n>", "sequences per batch", integer(1), 16)
    .option("--max-length <n>", "tokens per sequence of language modelling or conversation (default: as trained, or 256)", integer(2))
    .addOption(chatFormatOption())
    .addOption(baseDtypeOption())
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: EvalFlags) => {
      const terminal = new Terminal();
      const conversations = holdsConversations(flags.data) ? readConversations(flags.data) : undefined;
      const examples = conversations ?? readExamples(flags.data, { textColumn: flags.textColumn, labelColumn: flags.labelColumn });
      const adapted: Adapted = flags.adapter
        ? await openAdapted(flags.adapter, flags.model, flags.baseDtype)
        : await openModel(flags.model ?? defaultModel, flags.baseDtype);
      const device = cpu();
      const common = { train: examples, heldOut: examples, batchSize: flags.batchSize, seed: 0 };
      let task: Task;
      if (adapted.kind === "classification") {
        const unlabelled = examples.find((e) => e.label === undefined || !adapted.record.labels.includes(e.label));
        if (unlabelled)
          throw new EspalierError(
            "unseen-label",
            `${unlabelled.file} line ${unlabelled.line}: ${unlabelled.label === undefined ? "there is no label" : `the adapter does not know the label "${unlabelled.label}"`}; it tells ${adapted.record.labels.join(", ")} apart.`,
          );
        task = classificationTask(adapted.model, adapted.tokenizer, device, { ...common, ...adapted.record });
      } else if (adapted.kind === "seq2seq") {
        throw new EspalierError(
          "unsupported-task",
          `${adapted.base} is an encoder-decoder, which espalier eval does not measure yet. Look at its answers with espalier generate.`,
        );
      } else {
        const { model, tokenizer, record, base } = adapted;
        const trained = record?.task === "chat" ? record.maxLength : record?.sequenceLength;
        const length = flags.maxLength ?? trained ?? Math.min(256, model.contextLength);
        checkLength(length, model, base);
        if (conversations) {
          const template = chatTemplateOf(base, flags.chatFormat, record);
          const chat = chatTask(model, tokenizer, template, device, {
            ...common,
            train: conversations,
            heldOut: conversations,
            maxLength: length,
          });
          for (const note of chat.heldOutNotes) terminal.line(note);
          task = chat;
        } else task = languageModelingTask(model, tokenizer, device, { ...common, sequenceLength: length });
      }
      const bar = terminal.progress("evaluate", 1);
      const metrics = await task.evaluate((done, of) => bar.update(done, flags.data, of));
      bar.stop();
      for (const [name, value] of Object.entries(metrics)) terminal.line(`${name.padEnd(12)} ${value.toFixed(4)}`);
      if (flags.json) terminal.json({ task: task.name, examples: examples.length, ...metrics });
      await task.dispose();
    });
}
