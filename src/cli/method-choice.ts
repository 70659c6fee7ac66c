import { type Command, InvalidArgumentError, Option } from "commander";
import { EspalierError } from "../graph/index.ts";
import { tokenizerFromDirectory } from "../inputs/text/tokenizer-directory.ts";
import { catalogue } from "../methods/catalogue.ts";
import type { Method } from "../train/method.ts";
import { integer, list, number } from "./options.ts";

/** What is trained, as flags say it. */
export interface MethodFlags {
  method: string;
  rank: number;
  alpha?: number;
  dropout: number;
  targets: string[];
  methodOptions?: Readonly<Record<string, unknown>>;
}

const adapters = catalogue.filter(({ card }) => card.family === "adapters");
const loraDefaults = { rank: 8, dropout: 0, targets: ["all-linear"] };

export function addMethodOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--method <name>", "what is trained: an adapter (espalier methods lists them), or none for the whole model")
        .choices([...adapters.map(({ card }) => card.slug), "none"])
        .default("lora"),
    )
    .option("--rank <n>", "LoRA rank", integer(1), loraDefaults.rank)
    .option("--alpha <n>", "LoRA scale numerator (default: twice the rank)", number(1e-6))
    .option("--dropout <p>", "LoRA dropout", number(0, 0.99), loraDefaults.dropout)
    .addOption(
      new Option("--targets <names>", "layers that LoRA adapts, e.g. q_proj,v_proj")
        .argParser(list)
        .default(loraDefaults.targets, loraDefaults.targets.join()),
    )
    .option(
      "--method-options <options>",
      "further options of the method, as name=value (several times) or JSON; espalier methods <name> lists them",
      methodOptions,
    );
}

/** `name=value`, the value as JSON where it is, or a JSON object; several are put together. */
function methodOptions(text: string, given: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  if (text.trimStart().startsWith("{")) {
    const parsed = asJson(text);
    if (typeof parsed !== "object" || parsed === null) throw new InvalidArgumentError("It begins like JSON and is none.");
    return { ...given, ...parsed };
  }
  const [, name, value] = /^\s*([A-Za-z]\w*)\s*=(.*)$/s.exec(text) ?? [];
  if (name === undefined) throw new InvalidArgumentError("It must be name=value or a JSON object, e.g. tokens=10 or '{\"tokens\": 10}'.");
  return { ...given, [name]: asJson(value!) ?? value! };
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The methods that the flags ask for. `model` is the directory of the model, whose tokenizer reads a prompt's text. */
export async function chosenMethods(flags: MethodFlags, model: string, seed: number): Promise<Method[]> {
  const { method: slug, rank, alpha = 2 * rank, dropout, targets, methodOptions: further = {} } = flags;
  const method = adapters.find(({ card }) => card.slug === slug);
  if (slug === "lora") {
    const chosen = targets.length === 1 && targets[0] === "all-linear" ? "all-linear" : targets;
    return [method!({ rank, alpha, dropout, targets: chosen, seed, ...further })];
  }
  const speaksOfLora =
    rank !== loraDefaults.rank || flags.alpha !== undefined || dropout !== 0 || targets.join() !== loraDefaults.targets.join();
  if (speaksOfLora)
    throw new EspalierError(
      "bad-option",
      `--rank, --alpha, --dropout and --targets speak of lora; give the options of ${slug} with --method-options.`,
    );
  if (!method) {
    if (Object.keys(further).length > 0) throw new EspalierError("bad-option", "--method-options needs a --method that has options.");
    return [];
  }
  const { shape } = method.schema as { shape?: object };
  const options = { ...("seed" in (shape ?? {}) && { seed }), ...further };
  return [method(slug === "prompt-tuning" ? await withText(options, model) : options)];
}

/** `initText` stands for the ids of its tokens. */
async function withText(options: Record<string, unknown>, model: string): Promise<Record<string, unknown>> {
  const { initText, ...rest } = options;
  if (initText === undefined) return options;
  const tokenizer = await tokenizerFromDirectory(model);
  return { ...rest, init: tokenizer.encode(String(initText), { addSpecialTokens: false }) };
}
