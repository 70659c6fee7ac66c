import { Command } from "commander";
import { chatCommand } from "./commands/chat.ts";
import { classifyCommand } from "./commands/classify.ts";
import { convertCommand } from "./commands/convert.ts";
import { evalCommand } from "./commands/eval.ts";
import { exportCommand } from "./commands/export.ts";
import { generateCommand } from "./commands/generate.ts";
import { initCommand } from "./commands/init.ts";
import { inspectCommand } from "./commands/inspect.ts";
import { mergeCommand } from "./commands/merge.ts";
import { methodsCommand } from "./commands/methods.ts";
import { predictCommand } from "./commands/predict.ts";
import { sweepCommand } from "./commands/sweep.ts";
import { trainCommand } from "./commands/train.ts";
import { version } from "./version.ts";

/** The command `espalier`. Throws CommanderError on wrong usage instead of ending the process. */
export function createProgram(): Command {
  const program = new Command("espalier")
    .description("Adapt pre-trained models on the machine you have.")
    .version(version)
    .showHelpAfterError("(--help lists commands and options)");
  for (const command of [
    initCommand(),
    trainCommand(),
    sweepCommand(),
    generateCommand(),
    chatCommand(),
    evalCommand(),
    classifyCommand(),
    predictCommand(),
    mergeCommand(),
    convertCommand(),
    exportCommand(),
    inspectCommand(),
    methodsCommand(),
  ])
    program.addCommand(command.copyInheritedSettings(program));
  for (const command of [program, ...program.commands]) command.exitOverride();
  return program;
}
