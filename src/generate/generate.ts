import { z } from "zod";
import { EspalierError, Random } from "../graph/index.ts";
import type { Tokenizer } from "../inputs/index.ts";
import { beamSearch } from "./beam-search.ts";
import type { TextGenerator } from "./decoder.ts";
import { type SamplingOptions, sample } from "./sampling.ts";
import { StopMatcher } from "./stop-matcher.ts";

export interface GenerateOptions extends SamplingOptions {
  /** Default 128. The model's context may end the text earlier. */
  maxNewTokens?: number | undefined;
  /** Of the draws at a temperature above 0: the same seed gives the same text. Default 0. */
  seed?: number | undefined;
  /** Strings that end the text; they are not part of it. */
  stop?: readonly string[] | undefined;
  /** Tokens that end the text, besides those that the model and the tokenizer name; a chat template's end of turn. */
  endIds?: readonly number[] | undefined;
  /** Above 1, the text is looked for by beam search ({@link beamSearch}) and comes whole at the end; nothing is drawn then. Default 1. */
  beams?: number | undefined;
  /** Of beam search: above 0 favours long texts. Default 1. */
  lengthPenalty?: number | undefined;
  /** What becomes of a prompt that leaves no room in the context: an error, or its beginning is dropped and counted. Default "refuse". */
  overflow?: "refuse" | "truncate" | undefined;
}

const optionsSchema: z.ZodType<GenerateOptions> = z.strictObject({
  maxNewTokens: z.int().positive().optional(),
  temperature: z.number().nonnegative().optional(),
  topK: z.int().positive().optional(),
  topP: z.number().positive().max(1).optional(),
  minP: z.number().nonnegative().max(1).optional(),
  repetitionPenalty: z.number().positive().optional(),
  seed: z.int().optional(),
  beams: z.int().positive().optional(),
  lengthPenalty: z.number().optional(),
  stop: z.array(z.string().min(1)).optional(),
  endIds: z.array(z.int().nonnegative()).optional(),
  overflow: z.enum(["refuse", "truncate"]).optional(),
});

export interface GenerationResult {
  /** Everything that was streamed. */
  text: string;
  /** Every token chosen: with the end token, and with those that spell the stop string. */
  ids: number[];
  /** An end token, a stop string, `maxNewTokens`, a full context, or the reader who left. */
  finishReason: "end" | "stop" | "length" | "context" | "cancelled";
  promptTokens: number;
  /** Tokens cut off the beginning of the prompt. */
  droppedTokens: number;
  /** From the call to the first token. */
  firstTokenSeconds: number;
  /** Of the tokens after the first. */
  tokensPerSecond: number;
}

/** Text being generated: iterate over its pieces, await its result, or both. It goes on only as fast as it is read. */
export interface Generation extends AsyncIterable<string> {
  /** Generates what is not generated yet. */
  result(): Promise<GenerationResult>;
}

/**
 * Continues a prompt.
 * ```ts
 * const generation = generate(decoder, tokenizer, "Once upon a time", { temperature: 0.8, topP: 0.95, stop: ["\n"] });
 * for await (const piece of generation) process.stdout.write(piece);
 * const { finishReason, tokensPerSecond } = await generation.result();
 * ```
 * @param prompt text, or token ids where a template was applied already
 * @throws EspalierError `bad-option`, `context-overflow`, `empty-prompt`, when it is called; `not-finite` while it is read
 */
export function generate(
  decoder: TextGenerator,
  tokenizer: Tokenizer,
  prompt: string | readonly number[],
  options: GenerateOptions = {},
): Generation {
  checkOptions(options);
  const { ids, dropped } = fitted(promptIds(tokenizer, prompt), decoder, tokenizer, options);
  const result: GenerationResult = {
    text: "",
    ids: [],
    finishReason: "cancelled",
    promptTokens: ids.length,
    droppedTokens: dropped,
    firstTokenSeconds: 0,
    tokensPerSecond: 0,
  };
  const pieces = run(decoder, tokenizer, ids, options, result);
  return {
    [Symbol.asyncIterator]: () => pieces,
    async result() {
      for await (const _ of pieces);
      return result;
    },
  };
}

async function* run(
  decoder: TextGenerator,
  tokenizer: Tokenizer,
  prompt: readonly number[],
  options: GenerateOptions,
  result: GenerationResult,
): AsyncGenerator<string, void> {
  const { maxNewTokens = defaultNewTokens, stop = [], seed = 0 } = options;
  const room = Math.min(maxNewTokens, decoder.room(prompt.length));
  const ends = new Set([...endIdsOf(decoder, tokenizer), ...(options.endIds ?? [])]);
  const random = new Random(seed);
  const seen = new Set(prompt);
  const stream = tokenizer.stream();
  const matcher = new StopMatcher(stop);
  const shown = (text: string): string => {
    result.text += text;
    return text;
  };
  const started = performance.now();
  const decoding = await decoder.start([prompt]);
  if (options.beams !== undefined && options.beams > 1) {
    const { beams, lengthPenalty = 1 } = options;
    const found = await beamSearch(decoding, { beams, lengthPenalty, maxNewTokens: room, endIds: ends });
    const { ids } = found[0]![0]!;
    result.ids = ids;
    result.firstTokenSeconds = (performance.now() - started) / 1000;
    const ended = ends.has(ids.at(-1)!);
    result.finishReason = ended ? "end" : room === maxNewTokens ? "length" : "context";
    const { text, stopped } = matcher.push(tokenizer.decode(ended ? ids.slice(0, -1) : ids, { skipSpecialTokens: true }));
    if (stopped) result.finishReason = "stop";
    yield shown(stopped ? text : text + matcher.end());
    return;
  }
  let first = 0;
  while (true) {
    const id = sample(decoding.logits(), seen, options, random);
    seen.add(id);
    result.ids.push(id);
    const now = performance.now();
    if (result.ids.length === 1) {
      first = now;
      result.firstTokenSeconds = (now - started) / 1000;
    } else result.tokensPerSecond = ((result.ids.length - 1) * 1000) / (now - first);
    if (ends.has(id)) {
      result.finishReason = "end";
      break;
    }
    const { text, stopped } = matcher.push(stream.push(id));
    if (text !== "") yield shown(text);
    if (stopped) {
      result.finishReason = "stop";
      return;
    }
    if (result.ids.length === room) {
      result.finishReason = room === maxNewTokens ? "length" : "context";
      break;
    }
    await decoding.push([id]);
  }
  // The last token may end within a character; what that shows may still complete a stop string.
  const { text, stopped } = matcher.push(stream.end());
  if (stopped) result.finishReason = "stop";
  const rest = text + matcher.end();
  if (rest !== "") yield shown(rest);
}

const defaultNewTokens = 128;

function checkOptions(options: GenerateOptions): void {
  const parsed = optionsSchema.safeParse(options);
  if (parsed.success && (options.beams ?? 1) > 1 && (options.temperature ?? 0) > 0)
    throw new EspalierError("bad-option", "generate: beam search draws nothing; leave temperature out, or give it as 0.");
  if (parsed.success && (options.beams ?? 1) > 1 && (options.repetitionPenalty ?? 1) !== 1)
    throw new EspalierError("bad-option", "generate: beam search has no repetition penalty; leave repetitionPenalty out.");
  if (parsed.success) return;
  const problems = parsed.error.issues.map((issue) => `  ${issue.path.join(".") || "options"}: ${issue.message}`);
  throw new EspalierError("bad-option", `generate: wrong options:\n${problems.join("\n")}`);
}

function promptIds(tokenizer: Tokenizer, prompt: string | readonly number[]): readonly number[] {
  const ids = typeof prompt === "string" ? tokenizer.encode(prompt) : prompt;
  if (ids.length > 0) return ids;
  // A model that was taught a start token can begin from nothing.
  if (tokenizer.bosId !== undefined) return [tokenizer.bosId];
  throw new EspalierError("empty-prompt", "The prompt has no token, and the tokenizer names no start token. Give some text.");
}

/** The prompt, cut where it must and may be, so that at least one new token fits into the context. */
function fitted(
  ids: readonly number[],
  decoder: TextGenerator,
  tokenizer: Tokenizer,
  { overflow = "refuse", maxNewTokens = defaultNewTokens }: GenerateOptions,
): { ids: readonly number[]; dropped: number } {
  const { context } = decoder;
  if (context === undefined || ids.length < context) return { ids, dropped: 0 };
  if (overflow === "refuse") {
    throw new EspalierError(
      "context-overflow",
      `The prompt has ${ids.length} tokens; with at least one new token it must fit the model's context of ${context}. Shorten it by ${ids.length - context + 1} tokens, or let its beginning be dropped with overflow: "truncate".`,
    );
  }
  // Half of the context at most is kept free: an answer needs something to follow from.
  const kept = Math.max(1, context - Math.min(maxNewTokens, Math.floor(context / 2)));
  const head = ids[0] === tokenizer.bosId && kept > 1 ? [ids[0]!] : [];
  const fit = [...head, ...ids.slice(ids.length - kept + head.length)];
  return { ids: fit, dropped: ids.length - fit.length };
}

/** Tokens after which nothing comes: those that config.json and generation_config.json name, one or several, and the tokenizer's. */
export function endIdsOf(decoder: TextGenerator, tokenizer: Tokenizer): Set<number> {
  const { config, endIds = [] } = decoder.model;
  const ids = [config.eos_token_id, endIds, tokenizer.eosId].flat().filter((id): id is number => typeof id === "number");
  return new Set(ids);
}
