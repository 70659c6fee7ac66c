/**
 * How byte-level BPE tokenizers cut text into pieces before merging, by the names of `tokenizer.ggml.pre`. A piece is cut by the first
 * expression, what that leaves by the next, and so on: llama.cpp's own order, equal to the pre-tokenizers of the original tokenizer.json files.
 */
export interface PreTokenizer {
  readonly expressions: readonly string[];
  /** A piece that is a token already is taken whole, whatever the merges would make of it. */
  readonly ignoreMerges: boolean;
  /** Where the file does not say whether a start token is added. */
  readonly addBos: boolean;
}

const words = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const contractions = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
/** GPT-4's kind: letters take one character before them along, digits come in groups of up to `digits`. */
const gpt4 = (digits: string) =>
  String.raw`${contractions}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** GPT-4o's kind: cut where upper case follows lower case. */
const cased = (ending: string, digits: string) => {
  const [upper, lower] = [String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`];
  const before = String.raw`[^\r\n\p{L}\p{N}]?`;
  return String.raw`${before}${upper}*${lower}+${ending}|${before}${upper}+${lower}*${ending}|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
};

interface Kind {
  readonly names: readonly string[];
  readonly expressions: readonly string[];
  readonly ignoreMerges?: boolean;
  readonly addBos?: boolean;
}

const kinds: readonly Kind[] = [
  { names: ["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"], expressions: [words] },
  { names: ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], expressions: [String.raw`\p{N}`, words] },
  {
    names: ["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
    expressions: [gpt4("{1,3}")],
    ignoreMerges: true,
    addBos: true,
  },
  { names: ["dbrx", "smaug-bpe"], expressions: [gpt4("{1,3}")] },
  { names: ["qwen2", "deepseek-r1-qwen", "stablelm2"], expressions: [gpt4("")] },
  { names: ["tekken"], expressions: [cased("", "")], ignoreMerges: true, addBos: true },
  { names: ["gpt-4o", "llama4"], expressions: [cased(`${contractions}?`, "{1,3}")] },
  // What llama.cpp does where a file names none.
  {
    names: ["default"],
    expressions: [String.raw`[\p{P}\$\+<=>\^~\|]+`, words, String.raw`\p{N}+`, "[0-9][0-9][0-9]"],
  },
];

/** `undefined` for a name that is not known. */
export function preTokenizer(name: string): PreTokenizer | undefined {
  const kind = kinds.find(({ names }) => names.includes(name));
  return kind && { expressions: kind.expressions, ignoreMerges: kind.ignoreMerges ?? false, addBos: kind.addBos ?? false };
}

export const preTokenizerNames: readonly string[] = kinds.flatMap(({ names }) => names);
