import { EspalierError } from "../graph/index.ts";
import { tokenizerFromDirectory } from "../inputs/text/tokenizer-directory.ts";
import { trainingMethods } from "../methods/catalogue.ts";
import type { Method } from "../train/method.ts";
import { type methodOptions, type RunOptions, runSchema } from "./config/run-options.ts";

/** What is trained, as flags say it. */
export type MethodFlags = Pick<RunOptions, keyof typeof methodOptions>;

const adapters = trainingMethods.filter(({ card }) => card.family === "adapters");
const loraDefaults = runSchema.parse({});

/** The methods that the flags ask for. `model` is the directory of the model, whose tokenizer reads a prompt's text. */
export async function chosenMethods(flags: MethodFlags, model: string, seed: number): Promise<Method[]> {
  const { method: slug, rank, alpha = 2 * rank, dropout, targets, methodOptions: further = {} } = flags;
  const method = adapters.find(({ card }) => card.slug === slug);
  if (slug === "lora") {
    const chosen = targets.length === 1 && targets[0] === "all-linear" ? "all-linear" : targets;
    return [method!({ rank, alpha, dropout, targets: chosen, seed, ...further })];
  }
  const speaksOfLora =
    rank !== loraDefaults.rank ||
    flags.alpha !== undefined ||
    dropout !== loraDefaults.dropout ||
    targets.join() !== loraDefaults.targets.join();
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
