import { type Command, InvalidArgumentError, Option } from "commander";
import { choicesOf, defaultOf, flagName, parserOf, type RunOption } from "./run-option.ts";
import { runOptionGroups, runOptions } from "./run-options.ts";

type Key = keyof typeof runOptions;

export interface RunFlagsOptions {
  /** The options that the command takes; all of them unless told. */
  keys?: readonly Key[];
  /** Headings in `--help`; for commands with many options. */
  headings?: boolean;
  /** Defaults are filled in by whoever has read the configuration too. They are shown all the same. */
  without?: "defaults";
}

/** Adds options of a run to a command, as the table says. */
export function addRunOptions(command: Command, { keys, headings = false, without }: RunFlagsOptions = {}): Command {
  for (const [heading, options] of runOptionGroups) {
    for (const [key, option] of Object.entries(options)) {
      if (keys && !keys.includes(key as Key)) continue;
      const flag = flagOf(key, option, without === undefined);
      command.addOption(headings ? flag.helpGroup(heading) : flag);
    }
  }
  return command;
}

/** One of them, for a command that uses a model and trains none. */
export const runFlag = (key: Key): Option => flagOf(key, runOptions[key], true);

function flagOf(key: string, option: RunOption, withDefault: boolean): Option {
  const { schema, value, byDefault } = option;
  const fallback = defaultOf(schema);
  const described = byDefault ?? (fallback === undefined ? undefined : String(fallback));
  const shown =
    withDefault && fallback !== undefined
      ? ""
      : described === "required" || fallback === false
        ? ""
        : described
          ? ` (default: ${described})`
          : "";
  // What is done unless told is switched off.
  if (fallback === true) return new Option(flagName(key).replace("--", "--no-"), option.help);
  const flag = new Option(`${flagName(key)}${value ? ` ${value}` : ""}`, `${option.help}${shown}`);
  if (withDefault && fallback !== undefined) flag.default(fallback, byDefault);
  if (!value) return flag;
  const choices = choicesOf(schema);
  if (choices) return flag.choices([...choices]);
  const parse = parserOf(option);
  // A default is not what an earlier flag of the same name said.
  return flag.argParser((text: string, previous: unknown) => {
    const parsed = schema.safeParse(parse(text, previous === fallback ? undefined : previous));
    if (!parsed.success) throw new InvalidArgumentError(parsed.error.issues[0]!.message);
    return parsed.data;
  });
}

/** What the arguments said, without what commander fills in by itself: a switch that is on unless told is not given by being on. */
export const givenOptions = <T>(command: Command): T =>
  Object.fromEntries(Object.entries(command.opts()).filter(([key]) => command.getOptionValueSource(key) !== "default")) as T;
