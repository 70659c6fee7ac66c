/**
 * The main job, `npm start`: real e-mails become a training and a held-out split, and the embedded sapling learns with LoRA to tell spam from ham.
 * Options of `espalier train` may be added (`npm start -- --epochs 1 --json`).
 */
import { openClassifier } from "../../src/cli/adapted.ts";
import { parseTrainFlags, runTrain, type TrainSummary } from "../../src/cli/commands/train.ts";
import { runCommand } from "../../src/cli/run-command.ts";
import { formatPercent, Terminal } from "../../src/cli/terminal.ts";
import { cpu } from "../../src/runtime/node.ts";
import { Classifier } from "../../src/train/tasks/classifier.ts";
import { prepareSpamData, readSpamExamples, splitTable } from "./data.ts";

await runCommand(async () => {
  const terminal = new Terminal();
  terminal.line("Preparing the mails of the SpamAssassin public corpus.");
  const data = await prepareSpamData();
  terminal.line(splitTable(data.counts));

  const job = {
    "--data": data.train,
    "--eval-data": data.heldOut,
    "--template": "{text}\n\nThis e-mail is",
    "--positive": "spam",
    // Chosen on a fifth of the training mails, never on the held-out ones.
    "--max-length": "128",
    "--learning-rate": "1.5e-3",
    "--epochs": "3",
    "--run": "runs/spam",
  };
  const flags = await parseTrainFlags([...Object.entries(job).flat(), "--replace", ...process.argv.slice(2)]);
  const summary = await runTrain(flags, terminal);

  terminal.line();
  for (const line of figures(summary)) terminal.line(line);
  terminal.line();
  await showThreeMails(terminal, summary.adapter, data.heldOut);
  terminal.line();
  terminal.line("Classify a mail of your own:");
  terminal.line(`  npx espalier classify --adapter ${summary.adapter} examples/spam/sample-spam.eml`);
  if (flags.json) terminal.json(summary);
});

function figures({ before, after, majorityAccuracy }: TrainSummary): string[] {
  const row = (name: string, accuracy: number, f1?: number, auc?: number) =>
    `${name.padEnd(34)} ${formatPercent(accuracy).padStart(8)} ${(f1?.toFixed(3) ?? "–").padStart(8)} ${(auc?.toFixed(3) ?? "–").padStart(8)}`;
  return [
    `${"on held-out mail".padEnd(34)} ${"accuracy".padStart(8)} ${"F1 spam".padStart(8)} ${"ROC AUC".padStart(8)}`,
    row("majority class (always ham)", majorityAccuracy!, 0, 0.5),
    row("sapling, zero-shot", before!.accuracy!, before!.f1, before!.rocAuc),
    row("sapling + LoRA", after.accuracy!, after.f1, after.rocAuc),
  ];
}

/** Of every eighth held-out mail: the first ham and the first spam that the adapted model gets right, and the first mail that it gets wrong. */
async function showThreeMails(terminal: Terminal, adapter: string, heldOut: string): Promise<void> {
  const { model, tokenizer, record } = await openClassifier({ adapter });
  const mails = (await readSpamExamples(heldOut)).filter((_, i) => i % 8 === 0);
  const classifier = new Classifier(model, tokenizer, cpu(), record);
  const { predictions } = await classifier.predict(mails.map((m) => m.text));
  const first = (wanted: (truth: string, verdict: string) => boolean) => mails.findIndex((m, i) => wanted(m.label, predictions[i]!.label));
  const chosen = [
    first((truth, verdict) => truth === "ham" && verdict === truth),
    first((truth, verdict) => truth === "spam" && verdict === truth),
    first((truth, verdict) => verdict !== truth),
  ].filter((i) => i >= 0);
  for (const i of chosen) {
    const { label, probabilities } = predictions[i]!;
    const mail = mails[i]!;
    terminal.line(`verdict ${label} (${formatPercent(Math.max(...probabilities))}), ${label === mail.label ? "rightly" : "wrongly"}:`);
    for (const line of mail.text.split("\n").filter(Boolean).slice(0, 3))
      terminal.line(`    ${line.length > 100 ? `${line.slice(0, 99)}…` : line}`);
  }
  await classifier.dispose();
}
