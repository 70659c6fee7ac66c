import { existsSync } from "node:fs";
import { basename } from "node:path";
import { input, select } from "@inquirer/prompts";
import { Command } from "commander";
import { writeFileAtomically } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { configSource } from "../config/config-source.ts";
import { addRunOptions } from "../config/flags.ts";
import { configNames } from "../config/load-config.ts";
import { choicesOf } from "../config/run-option.ts";
import { dataOptions, methodOptions, type RunConfig } from "../config/run-options.ts";
import { dataSources } from "../data-sources.ts";
import { Interrupted } from "../signals.ts";
import { Terminal } from "../terminal.ts";

interface InitFlags extends RunConfig {
  yes?: boolean;
  replace?: boolean;
}

const file = "espalier.config.ts";

export function initCommand(): Command {
  const command = new Command("init").description("Write an espalier.config.ts after a few questions.");
  return addRunOptions(command, { keys: ["data", "evalData", "task", "model", "method", "epochs", "run"], without: "defaults" })
    .option("--yes", "ask nothing: what is not given keeps its default")
    .option("--replace", "replace the configuration that is there")
    .action(async ({ yes, replace, ...given }: InitFlags) => {
      const terminal = new Terminal();
      const there = configNames.find((name) => existsSync(name));
      if (there && !replace) throw new EspalierError("config-exists", `${there} is there already. Edit it, or replace it with --replace.`);
      if (there && there !== file)
        throw new EspalierError("config-exists", `${there} is there already, and would be read in place of ${file}. Remove it first.`);
      const chosen = yes ? given : await ask(given);
      writeFileAtomically(file, (append) => append(new TextEncoder().encode(configSource(chosen))));
      terminal.line(`Wrote ${file}. Start the run with: espalier train${chosen.data === undefined ? " --data <file>" : ""}`);
    });
}

/** Asks for what was not given. */
async function ask(given: RunConfig): Promise<RunConfig> {
  if (!process.stdin.isTTY)
    throw new EspalierError(
      "no-terminal",
      "init asks its questions in a terminal. Give --yes and the options that you want, such as --data.",
    );
  try {
    const data =
      given.data ??
      (await input({ message: "Training data (.jsonl, .csv, .parquet, .txt, or a directory):", required: true, validate: isThere }));
    const task = given.task ?? ((await select({ message: "What is learnt?", choices: tasks() })) || undefined);
    const model = given.model ?? (await input({ message: "Base model (directory, .gguf, org/name on the Hub; empty: sapling):" }));
    const method = given.method ?? (await select({ message: "What is trained?", choices: choicesOf(methodOptions.method.schema)! }));
    const epochs = given.epochs ?? Number(await input({ message: "Passes over the data:", default: "1", validate: isAmount }));
    const run =
      given.run ??
      (await input({ message: "Run directory:", default: `runs/${basename(dataSources(data)[0]!.path).replace(/\.\w+$/, "")}` }));
    return { ...given, data, ...(task && { task }), ...(model !== "" && { model }), method, epochs, run };
  } catch (error) {
    // Ctrl-C in a question
    if (error instanceof Error && error.name === "ExitPromptError") throw new Interrupted();
    throw error;
  }
}

const tasks = () => [
  { name: "as the data say", value: undefined },
  ...choicesOf(dataOptions.task.schema)!.map((name) => ({ name, value: name as NonNullable<RunConfig["task"]> })),
];

const isThere = (path: string) => existsSync(path) || `${path}: there is no such file.`;
const isAmount = (amount: string) => Number(amount) > 0 || "A number above 0.";
