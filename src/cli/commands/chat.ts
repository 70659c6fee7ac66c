import { basename, dirname, resolve } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { EspalierError } from "../../graph/index.ts";
import type { BaseDtype } from "../../models/base-dtype.ts";
import { cpu } from "../../runtime/node.ts";
import { chatFormatOption } from "../chat-format.ts";
import { ChatModels } from "../chat-models.ts";
import { ChatSession } from "../chat-session.ts";
import { runFlag } from "../config/flags.ts";
import { LineReader } from "../line-reader.ts";
import { addSamplingOptions, type SamplingFlags, samplingOf } from "../sampling-options.ts";
import { Interrupted } from "../signals.ts";
import { Terminal } from "../terminal.ts";

interface ChatFlags extends SamplingFlags {
  model?: string;
  adapter?: Map<string, string>;
  system?: string;
  chatFormat?: string;
  baseDtype: BaseDtype;
  json?: boolean;
}

export function chatCommand(): Command {
  const command = new Command("chat")
    .description("Talk with a model; lines of standard input are messages and commands.")
    .option(
      "--model <model>",
      "base model, a directory or org/name on the Hugging Face Hub (default: the first adapter's own, or the embedded sapling)",
    )
    .option(
      "--adapter <name=directory>",
      "adapter (directory, or org/name on the Hub) to talk with; may be given several times, /adapter switches",
      addAdapter,
    )
    .option("--system <text>", "what the system says before all else")
    .addOption(chatFormatOption())
    .addOption(runFlag("baseDtype"));
  return addSamplingOptions(command, 512).option("--json", "print the conversation as one JSON object in the last line").action(runChat);
}

/** `name=directory`, or a directory, whose own name is taken; that of a run for the `adapter` in it. */
function addAdapter(value: string, given: Map<string, string> = new Map()): Map<string, string> {
  const equals = value.indexOf("=");
  const path = equals < 0 ? value : value.slice(equals + 1);
  const own = basename(resolve(path)) === "adapter" ? basename(dirname(resolve(path))) : basename(resolve(path));
  const name = equals < 0 ? own : value.slice(0, equals).trim();
  if (name === "" || path === "") throw new InvalidArgumentError("It must be name=directory.");
  if (name === "none" || /\s/.test(name))
    throw new InvalidArgumentError(`An adapter cannot be called ${JSON.stringify(name)}; give name=directory.`);
  if (given.has(name)) throw new InvalidArgumentError(`Two adapters are called ${JSON.stringify(name)}; give name=directory.`);
  return new Map([...given, [name, path]]);
}

async function runChat(flags: ChatFlags): Promise<void> {
  const terminal = new Terminal();
  const adapters = flags.adapter ?? new Map<string, string>();
  const models = new ChatModels(cpu(), { model: flags.model, adapters, chatFormat: flags.chatFormat, baseDtype: flags.baseDtype });
  const first = await models.open([...adapters.keys()][0]);
  let interrupted = false;
  const reader = new LineReader(() => {
    const answering = session.stop();
    if (reader.interactive) {
      if (!answering) reader.clearLine();
      return;
    }
    // Who stops a command that reads a pipe means all of it. An answer ends first.
    interrupted = true;
    if (!answering) reader.close();
  });
  // What is said about the conversation stays out of a file that the answers are written to.
  const notice = (text: string) => void process.stderr.write(`${text}\n`);
  const output = { answer: (piece: string) => terminal.write(reader.interactive ? withoutControls(piece) : piece), notice };
  const session = new ChatSession(models, first, { ...samplingOf(flags), maxNewTokens: flags.maxNewTokens, system: flags.system }, output);
  try {
    if (reader.interactive)
      notice(`${models.base}${first.adapter === undefined ? "" : ` with ${first.adapter}`}. /help lists commands, Ctrl-D ends.`);
    for (let line = await reader.next(); line !== undefined && !interrupted; line = await reader.next()) {
      try {
        if ((await session.take(line)) === "exit") break;
      } catch (error) {
        // Someone who sits there can try again; a script must not go on as if nothing had happened.
        if (!reader.interactive || !(error instanceof EspalierError)) throw error;
        notice(error.message);
      }
    }
  } finally {
    reader.close();
  }
  if (interrupted) throw new Interrupted();
  if (flags.json) terminal.json({ messages: session.messages, adapter: session.adapter ?? null });
  await models.dispose();
}

/** What a model writes must not steer the terminal. */
const withoutControls = (text: string): string => text.replace(/[^\P{Cc}\n\t]/gu, "?");
