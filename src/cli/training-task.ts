import { openCheckpoint } from "../checkpoints/index.ts";
import { type Conversation, holdsConversations, readConversations } from "../data/conversations.ts";
import { type Example, splitExamples } from "../data/index.ts";
import { readExamples } from "../data/records.ts";
import { EspalierError } from "../graph/index.ts";
import { tokenizerFromDirectory } from "../inputs/text/tokenizer-directory.ts";
import { DecoderForSequenceClassification, loadCausalLM, loadSequenceClassifier, setBaseDtype } from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import { chatTask } from "../train/tasks/chat.ts";
import { classificationTask, collectLabels, defaultTemplate, initialiseHeadFromLabels } from "../train/tasks/classification.ts";
import { languageModelingTask } from "../train/tasks/language-modeling.ts";
import type { Task } from "../train/tasks/task.ts";
import { chatTemplateOf } from "./chat-format.ts";
import type { TrainFlags } from "./commands/train.ts";
import { checkLength } from "./options.ts";
import { readTaskRecord } from "./task-record.ts";
import type { Terminal } from "./terminal.ts";

/** Reads data and model of `espalier train`, and what the commonest label alone would reach. */
export async function prepareTask(
  flags: TrainFlags,
  device: Device,
  terminal: Terminal,
): Promise<{ task: Task; majority?: { label: string; accuracy: number } }> {
  if (flags.task === "chat" || (flags.task === undefined && holdsConversations(flags.data)))
    return { task: await prepareChat(flags, device, terminal) };
  if (flags.chatFormat !== undefined)
    throw new EspalierError(
      "bad-option",
      `--chat-format speaks of conversations, and ${flags.data} is not read as such. Leave it out, or give --task chat.`,
    );
  const columns = { textColumn: flags.textColumn, labelColumn: flags.labelColumn };
  const examples = readExamples(flags.data, columns);
  const labelled = examples[0]!.label !== undefined;
  const name = flags.task ?? (labelled ? "classification" : "language-modeling");
  if (name === "classification" && !labelled)
    throw new EspalierError(
      "no-labels",
      `${flags.data} has no labels; classification needs a label for every text (--label-column names the column).`,
    );
  openCheckpoint(flags.model); // before the tokenizer, so that a wrong directory is reported as such
  const tokenizer = await tokenizerFromDirectory(flags.model);
  const { train: trainExamples, heldOut } = hold(examples, name, flags, (file) => readExamples(file, columns), terminal);
  const common = { batchSize: flags.batchSize, seed: flags.seed, train: trainExamples, heldOut };
  if (name === "language-modeling") {
    const model = loadCausalLM(flags.model);
    setBaseDtype(model, flags.baseDtype);
    checkLength(flags.maxLength, model, flags.model);
    return { task: languageModelingTask(model, tokenizer, device, { ...common, sequenceLength: flags.maxLength }) };
  }
  const labels = collectLabels(trainExamples, heldOut);
  const model = loadSequenceClassifier(flags.model, labels);
  setBaseDtype(model, flags.baseDtype);
  checkLength(flags.maxLength, model, flags.model);
  // A head that was trained already is better than a guess.
  if (model.headIsFresh && model instanceof DecoderForSequenceClassification) initialiseHeadFromLabels(model, tokenizer, labels, device);
  const task = classificationTask(model, tokenizer, device, {
    ...common,
    labels,
    template: flags.template ?? defaultTemplate(model),
    maxLength: flags.maxLength,
    positive: flags.positive,
  });
  terminal.line(`Held-out majority class "${task.majority.label}": accuracy ${task.majority.accuracy.toFixed(4)}.`);
  return { task, majority: task.majority };
}

async function prepareChat(flags: TrainFlags, device: Device, terminal: Terminal): Promise<Task> {
  const conversations = readConversations(flags.data);
  openCheckpoint(flags.model); // as above
  const tokenizer = await tokenizerFromDirectory(flags.model);
  const template = chatTemplateOf(flags.model, flags.chatFormat, readTaskRecord(flags.model));
  const parts = hold<Conversation>(conversations, "chat", flags, readConversations, terminal);
  const model = loadCausalLM(flags.model);
  setBaseDtype(model, flags.baseDtype);
  checkLength(flags.maxLength, model, flags.model);
  const { batchSize, seed, maxLength } = flags;
  return chatTask(model, tokenizer, template, device, { ...parts, batchSize, seed, maxLength });
}

function hold<E extends Example>(
  examples: E[],
  name: string,
  flags: TrainFlags,
  read: (file: string) => E[],
  terminal: Terminal,
): { train: readonly E[]; heldOut: readonly E[] } {
  if (flags.evalData !== undefined) return { train: examples, heldOut: read(flags.evalData) };
  // One long text is cut in two: its last part is held out.
  if (name === "language-modeling" && examples.length === 1) {
    const [example] = examples as [E];
    const cut = Math.floor(example.text.length * (1 - flags.heldOut));
    return { train: [{ ...example, text: example.text.slice(0, cut) }], heldOut: [{ ...example, text: example.text.slice(cut) }] };
  }
  const { train, heldOut, duplicatesRemoved } = splitExamples(examples, { heldOut: flags.heldOut, seed: flags.seed });
  if (duplicatesRemoved > 0) terminal.line(`${duplicatesRemoved} duplicates were removed.`);
  return { train, heldOut };
}
