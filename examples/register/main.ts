/**
 * The second example, `npm run example:register`: sapling, which has read manuals and newspapers, learns the register of the King James Version with LoRA.
 * Bits per byte of held-out chapters before and after, and the same prompts continued by both models.
 */
import { openLanguageModel } from "../../src/cli/adapted.ts";
import { parseTrainFlags, runTrain } from "../../src/cli/commands/train.ts";
import { defaultModel } from "../../src/cli/default-model.ts";
import { runCommand } from "../../src/cli/run-command.ts";
import { Terminal } from "../../src/cli/terminal.ts";
import { Decoder, generate } from "../../src/generate/index.ts";
import type { Tokenizer } from "../../src/inputs/index.ts";
import { tokenizerFromDirectory } from "../../src/inputs/text/tokenizer-directory.ts";
import type { CausalLM } from "../../src/models/index.ts";
import { loadCausalLM } from "../../src/models/index.ts";
import { cpu } from "../../src/runtime/node.ts";

const prompts = ["And it came to pass, when", "The king said to his servants,"];

await runCommand(async () => {
  const terminal = new Terminal();
  const job = [
    "--data",
    "examples/register/king-james.txt",
    "--held-out",
    "0.1",
    "--rank",
    "16",
    "--batch-size",
    "16",
    "--learning-rate",
    "2e-3",
    "--epochs",
    "1",
    "--run",
    "runs/register",
    "--replace",
  ];
  const flags = await parseTrainFlags([...job, ...process.argv.slice(2)]);
  const summary = await runTrain(flags, terminal);
  terminal.line();
  terminal.line(`bits per byte of held-out chapters: ${summary.baseMetric!.toFixed(3)} before, ${summary.finalMetric.toFixed(3)} after`);
  await samples(terminal, "before", loadCausalLM(defaultModel).freeze(), await tokenizerFromDirectory(defaultModel));
  const adapted = await openLanguageModel(undefined, summary.adapter);
  await samples(terminal, "after", adapted.model, adapted.tokenizer);
  if (flags.json) terminal.json(summary);
});

async function samples(terminal: Terminal, when: string, model: CausalLM, tokenizer: Tokenizer): Promise<void> {
  const decoder = await Decoder.create(cpu(), model);
  for (const prompt of prompts) {
    const { text } = await generate(decoder, tokenizer, prompt, { maxNewTokens: 50, temperature: 0.7, topP: 0.9, seed: 1 }).result();
    terminal.line();
    terminal.line(`${when}: ${prompt}${text.replaceAll(/\s+/g, " ")}`);
  }
  await decoder.dispose();
}
