/** How byte-level BPE tokenizers cut a text into pre-tokens. */
import type { TokenizerFile } from "./tokenizer-file.ts";
import { splitPattern } from "./tokenizers-js.ts";

/** A regular expression that cuts text into pre-tokens. */
export interface PiecePattern {
  expression: RegExp;
  /** Whether it is known to take a time proportional to the text. */
  linear: boolean;
}

const gpt2 = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The pattern, when that and byte-level BPE is all the tokenizer does. */
export function piecePattern(file: TokenizerFile): PiecePattern | undefined {
  if (
    file.normalizer ||
    file.model.type !== "BPE" ||
    file.model.byte_fallback ||
    file.model.end_of_word_suffix ||
    file.model.continuing_subword_suffix
  )
    return undefined;
  if (file.added_tokens.some((token) => token.lstrip || token.rstrip || token.single_word || token.content === "")) return undefined;
  const pre = file.pre_tokenizer;
  if (pre?.type === "ByteLevel" && !pre.add_prefix_space && pre.use_regex !== false) return { expression: gpt2, linear: true };
  const [split, byteLevel, ...rest] = (pre?.type === "Sequence" ? pre.pretokenizers : undefined) ?? [];
  if (split?.type !== "Split" || split.behavior !== "Isolated" || split.invert || rest.length > 0) return undefined;
  if (byteLevel?.type !== "ByteLevel" || byteLevel.add_prefix_space || byteLevel.use_regex !== false) return undefined;
  const expression = splitPattern(split);
  const { Regex } = (split as { pattern?: { Regex?: unknown } }).pattern ?? {};
  return expression && { expression, linear: typeof Regex === "string" && isLinear(Regex) };
}

/** What the patterns of GPT-2, GPT-4, Llama 3, Qwen and their relatives are made of: each takes what it has looked at, or fails within a few characters. */
const alternatives = [
  ...["s", "t", "re", "ve", "m", "ll", "d"].map((ending) => `'${ending}`),
  ...["[sS]", "[tT]", "[rR][eE]", "[vV][eE]", "[mM]", "[lL][lL]", "[dD]"].map((ending) => `'${ending}`),
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
  "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
  ...["\\p{N}", "\\p{N}{1,3}", "\\p{N}+", " ?\\p{N}+", " ?\\p{L}+", "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"],
  ...[" ?[^\\s\\p{L}\\p{N}]+", " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*", "\\s*[\\r\\n]+", "\\s+(?!\\S)", "\\s+"],
];
const literal = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const known = `(?:${alternatives.map(literal).join("|")})`;
const knownPattern = new RegExp(`^(?:${known}\\|)*\\\\s\\+$`);

/** The last alternative, `\s+`, takes what `\s*[\r\n]+` has looked at in vain. */
const isLinear = (source: string): boolean => source.length < 1000 && knownPattern.test(source);
