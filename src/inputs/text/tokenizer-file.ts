/**
 * What must hold of `tokenizer.json` and `tokenizer_config.json` before the library sees them, so that a broken file is named with its reason
 * instead of failing somewhere inside.
 */
import { z } from "zod";
import { EspalierError, show } from "../../graph/errors.ts";

const addedToken = z.looseObject({
  id: z.number().int().nonnegative().max(0xffffff),
  content: z.string(),
  special: z.boolean().optional(),
  lstrip: z.boolean().optional(),
  rstrip: z.boolean().optional(),
  single_word: z.boolean().optional(),
  normalized: z.boolean().optional(),
});

const component = z.looseObject({ type: z.string() }).nullish();

interface PreTokenizerJson {
  type: string;
  pretokenizers?: PreTokenizerJson[] | undefined;
  behavior?: unknown;
  invert?: unknown;
  add_prefix_space?: unknown;
  use_regex?: unknown;
}

const preTokenizer: z.ZodType<PreTokenizerJson> = z.looseObject({
  type: z.string(),
  get pretokenizers() {
    return z.array(preTokenizer).optional();
  },
});

const tokenId = z.number().int().nonnegative().max(0xffffff);

const tokenizerFile = z.looseObject({
  added_tokens: z
    .array(addedToken)
    .nullish()
    .transform((tokens) => tokens ?? []),
  normalizer: component.transform((value) => value ?? null),
  pre_tokenizer: preTokenizer.nullish().transform((value) => value ?? null),
  post_processor: component.transform((value) => value ?? null),
  decoder: component.transform((value) => value ?? null),
  model: z.looseObject({
    // Old files leave it out; the library then guesses from the rest.
    type: z.enum(["BPE", "WordPiece", "Unigram"]).optional(),
    // Unigram lists [piece, score] pairs; the others map token to id.
    vocab: z.union([z.record(z.string(), tokenId), z.array(z.tuple([z.string(), z.number()]))]),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
  }),
});

const specialToken = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();

const tokenizerConfig = z.looseObject({
  bos_token: specialToken,
  eos_token: specialToken,
  pad_token: specialToken,
  unk_token: specialToken,
  model_max_length: z
    .number()
    .nullish()
    .transform((value) => value ?? undefined),
  clean_up_tokenization_spaces: z.boolean().optional(),
  chat_template: z.unknown().optional(),
});

export type TokenizerFile = z.output<typeof tokenizerFile>;
export type TokenizerConfig = z.output<typeof tokenizerConfig>;
export type SpecialTokenName = "bos_token" | "eos_token" | "pad_token" | "unk_token";

export function checkTokenizerJson(json: unknown, configJson: unknown, where: string): { file: TokenizerFile; config: TokenizerConfig } {
  const file = checked(tokenizerFile, json, where);
  checkComponents({ normalizer: file.normalizer, pre_tokenizer: file.pre_tokenizer, decoder: file.decoder }, "", where);
  const { vocab, merges } = file.model;
  if (file.model.type === "BPE" && !Array.isArray(vocab)) {
    for (const [index, merge] of (merges ?? []).entries()) {
      const [left, right] = typeof merge === "string" ? merge.split(" ") : merge;
      if (left === undefined || right === undefined || !Object.hasOwn(vocab, left) || !Object.hasOwn(vocab, right)) {
        throw broken(where, `model.merges[${index}] (${JSON.stringify(merge)}) joins a token that model.vocab lacks`);
      }
    }
  }
  return { file, config: checked(tokenizerConfig, configJson, where.replace(/tokenizer\.json$/, "tokenizer_config.json")) };
}

const patternSchema = z.union([z.object({ Regex: z.string() }), z.object({ String: z.string() })]);
/** What stands in the place of something in a text: longer, and a small text would become a huge one. */
const replacement = z.string().max(100).nullish();

/** What the library would pass over or stumble on later: a pattern of another kind, for one, would cut texts in other places than the checkpoint's. */
function checkComponents(component: object, path: string, where: string): void {
  const check = (key: string, value: unknown, schema: z.ZodType, what: string) => {
    if (!schema.safeParse(value).success) throw broken(where, `${path}${key} is ${show(value)}, not ${what}`);
  };
  const { type, pattern } = component as { type?: unknown; pattern?: unknown };
  if (pattern !== undefined || type === "Replace" || type === "Split")
    check("pattern", pattern, patternSchema, 'a {"Regex": …} or a {"String": …}');
  for (const [key, value] of Object.entries(component)) {
    if (["content", "replacement", "prepend", "prefix", "suffix"].includes(key))
      check(key, value, replacement, "a text of at most 100 characters");
    if (typeof value === "object" && value !== null) checkComponents(value, `${path}${key}.`, where);
  }
}

export function specialTokenContent(config: TokenizerConfig, name: SpecialTokenName): string | undefined {
  const token = config[name];
  return typeof token === "string" ? token : token?.content;
}

function checked<T>(schema: z.ZodType<T>, json: unknown, where: string): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw broken(where, `${issue?.path.length ? `${issue.path.join(".")}: ` : ""}${issue?.message ?? "wrong shape"}`);
}

function broken(where: string, reason: string): EspalierError {
  return new EspalierError(
    "tokenizer-broken",
    `${where} is not a usable tokenizer: ${reason}. Copy the file from the original checkpoint again.`,
  );
}
