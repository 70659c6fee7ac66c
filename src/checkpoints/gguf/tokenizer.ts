/** The tokenizer inside a GGUF file, as the `tokenizer.json` and `tokenizer_config.json` that say the same. */
import { EspalierError } from "../../graph/errors.ts";
import { quoteName } from "../safetensors-header.ts";
import type { GgufFile } from "./gguf-file.ts";
import { preTokenizer, preTokenizerNames } from "./pre-tokenizers.ts";

export interface TokenizerFiles {
  /** `tokenizer.json`. */
  tokenizer: Record<string, unknown>;
  /** `tokenizer_config.json`. */
  config: Record<string, unknown>;
}

/** Values of `tokenizer.ggml.token_type`. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 };

/** No honest token of a vocabulary is longer; the search for merges takes time by the square of it. */
const longestPiece = 512;

const prefix = "tokenizer.ggml.";

interface Vocabulary {
  /** By id, each once. */
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly ids: ReadonlyMap<string, number>;
}

interface SpecialIds {
  bos?: number | undefined;
  eos?: number | undefined;
  pad?: number | undefined;
  unk?: number | undefined;
}

/**
 * @throws EspalierError `tokenizer-missing` (a file without one), `tokenizer-unsupported` (a kind that Espalier lacks), `tokenizer-broken`,
 *   `checkpoint-header`
 */
export function ggufTokenizer(gguf: GgufFile): TokenizerFiles {
  const model = gguf.string(`${prefix}model`);
  if (model === undefined || model === "none" || model === "no_vocab") {
    throw new EspalierError("tokenizer-missing", `${gguf.file}: holds no tokenizer. Convert the model again together with its tokenizer.`);
  }
  if (model === "gpt2") return byteLevelBpe(gguf);
  if (model === "llama") return sentencePiece(gguf);
  throw new EspalierError(
    "tokenizer-unsupported",
    `${gguf.file}: its tokenizer is of the kind ${quoteName(model)}; of GGUF files Espalier reads "gpt2" (byte-level BPE) and "llama" (SentencePiece). Use the model's Hugging Face directory, which has a tokenizer.json.`,
  );
}

function byteLevelBpe(gguf: GgufFile): TokenizerFiles {
  const name = gguf.string(`${prefix}pre`) ?? "default";
  const pre = preTokenizer(name);
  if (!pre) {
    throw new EspalierError(
      "tokenizer-unsupported",
      `${gguf.file}: its tokenizer cuts text in the way ${quoteName(name)}, which Espalier does not know; with another way it would give other tokens. Known are ${preTokenizerNames.join(", ")}. Use the model's Hugging Face directory, which has a tokenizer.json.`,
    );
  }
  const vocabulary = readVocabulary(gguf);
  const split = (expression: string) => ({ type: "Split", pattern: { Regex: expression }, behavior: "Isolated", invert: false });
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  return files(gguf, vocabulary, specialIds(gguf, vocabulary, {}), pre.addBos, {
    normalizer: null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [...pre.expressions.map(split), byteLevel] },
    decoder: byteLevel,
    model: { ...bpe(vocabulary, readMerges(gguf, vocabulary)), byte_fallback: false, fuse_unk: false, ignore_merges: pre.ignoreMerges },
  });
}

/** Merges are stored as "left right"; a token may begin with the space, none has it further on. */
function readMerges(gguf: GgufFile, { ids }: Vocabulary): [string, string][] {
  const merges = gguf.strings(`${prefix}merges`) ?? [];
  return merges.map((merge, index): [string, string] => {
    const at = merge.indexOf(" ", 1);
    const [left, right] = [merge.slice(0, at), merge.slice(at + 1)];
    if (at > 0 && ids.has(left) && ids.has(right)) return [left, right];
    throw broken(gguf, `merge ${index} (${quoteName(merge)}) does not join two of its tokens`);
  });
}

function sentencePiece(gguf: GgufFile): TokenizerFiles {
  const vocabulary = readVocabulary(gguf);
  const special = specialIds(gguf, vocabulary, { bos: 1, eos: 2, unk: 0 });
  const space = "▁";
  const leadingSpace = gguf.boolean(`${prefix}add_space_prefix`) ?? true;
  const replace = (from: string, content: string) => ({ type: "Replace", pattern: { String: from }, content });
  return files(gguf, vocabulary, special, true, {
    normalizer: { type: "Sequence", normalizers: [...(leadingSpace ? [{ type: "Prepend", prepend: space }] : []), replace(" ", space)] },
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        replace(space, " "),
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(leadingSpace ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      ...bpe(vocabulary, mergesByScore(gguf, vocabulary)),
      unk_token: special.unk === undefined ? null : vocabulary.tokens[special.unk],
      byte_fallback: true,
      fuse_unk: true,
      ignore_merges: false,
    },
  });
}

/**
 * SentencePiece's BPE merges the pair whose union has the highest score; a tokenizer.json lists merges by rank. So every way to join two pieces to a
 * third becomes a merge, ranked by the score of the third.
 */
function mergesByScore(gguf: GgufFile, { tokens, types, ids }: Vocabulary): [string, string][] {
  const scores = gguf.numbers(`${prefix}scores`);
  if (!scores || scores.length < tokens.length)
    throw broken(gguf, `"${prefix}scores" must have a score for each of its ${tokens.length} tokens, not ${scores?.length ?? "none"}`);
  const merges: { left: string; right: string; score: number; leftId: number; rightId: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    if (types[id] !== tokenType.normal) continue;
    if (token.length > longestPiece) throw broken(gguf, `token ${id} has ${token.length} characters; up to ${longestPiece} are read`);
    const found: typeof merges = [];
    for (let at = 1; at < token.length; at++) {
      const [left, right] = [token.slice(0, at), token.slice(at)];
      const [leftId, rightId] = [ids.get(left), ids.get(right)];
      if (leftId !== undefined && rightId !== undefined) found.push({ left, right, score: scores[id]!, leftId, rightId });
    }
    merges.push(...found.sort((a, b) => a.leftId - b.leftId || a.rightId - b.rightId));
  }
  // Sorting is stable: equal scores stay in the order of their tokens.
  return merges.sort((a, b) => b.score - a.score).map(({ left, right }) => [left, right]);
}

function bpe({ ids }: Vocabulary, merges: [string, string][]): Record<string, unknown> {
  return {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    vocab: Object.fromEntries(ids),
    merges,
  };
}

function readVocabulary(gguf: GgufFile): Vocabulary {
  const tokens = gguf.require(`${prefix}tokens`, gguf.strings(`${prefix}tokens`));
  const types = gguf.numbers(`${prefix}token_type`) ?? tokens.map(() => tokenType.normal);
  if (types.length < tokens.length) throw broken(gguf, `"${prefix}token_type" has ${types.length} entries for ${tokens.length} tokens`);
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    // Every row of the embedding keeps a name of its own; empty and repeated ones cannot come from text.
    if (token === "" || ids.has(token)) tokens[id] = `[unnamed ${id}]`;
    ids.set(tokens[id]!, id);
  }
  if (ids.size < tokens.length) throw broken(gguf, "has two tokens of one name");
  return { tokens, types, ids };
}

function specialIds(gguf: GgufFile, { tokens }: Vocabulary, defaults: SpecialIds): SpecialIds {
  const id = (name: string, otherwise: number | undefined): number | undefined => {
    const key = `${prefix}${name}_token_id`;
    const given = gguf.count(key);
    if (given !== undefined && given >= tokens.length)
      throw broken(gguf, `"${key}" is ${given}, but the vocabulary has ${tokens.length} tokens`);
    return given ?? (otherwise !== undefined && otherwise < tokens.length ? otherwise : undefined);
  };
  return { bos: id("bos", defaults.bos), eos: id("eos", defaults.eos), pad: id("padding", undefined), unk: id("unknown", defaults.unk) };
}

function files(
  gguf: GgufFile,
  { tokens, types }: Vocabulary,
  special: SpecialIds,
  addBosByDefault: boolean,
  parts: Record<string, unknown>,
): TokenizerFiles {
  const added = tokens.flatMap((content, id) => {
    const isSpecial = types[id] === tokenType.control || types[id] === tokenType.unknown || Object.values(special).includes(id);
    if (!isSpecial && types[id] !== tokenType.userDefined) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: isSpecial }];
  });
  const name = (id: number | undefined) => (id === undefined ? null : tokens[id]!);
  const addBos = (gguf.boolean(`${prefix}add_bos_token`) ?? addBosByDefault) && special.bos !== undefined;
  const addEos = (gguf.boolean(`${prefix}add_eos_token`) ?? false) && special.eos !== undefined;
  const template = gguf.string("tokenizer.chat_template");
  const context = gguf.count(`${gguf.string("general.architecture")}.context_length`);
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      ...parts,
      post_processor: postProcessor(tokens, addBos ? special.bos : undefined, addEos ? special.eos : undefined),
    },
    config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: name(special.bos),
      eos_token: name(special.eos),
      pad_token: name(special.pad),
      unk_token: name(special.unk),
      add_bos_token: addBos,
      add_eos_token: addEos,
      clean_up_tokenization_spaces: false,
      ...(context !== undefined && { model_max_length: context }),
      ...(template !== undefined && { chat_template: template }),
    },
  };
}

function postProcessor(tokens: readonly string[], bos: number | undefined, eos: number | undefined): Record<string, unknown> | null {
  if (bos === undefined && eos === undefined) return null;
  const around = (sequences: readonly string[]) =>
    sequences.flatMap((id, type) => [
      ...(bos === undefined ? [] : [{ SpecialToken: { id: tokens[bos]!, type_id: type } }]),
      { Sequence: { id, type_id: type } },
      ...(eos === undefined ? [] : [{ SpecialToken: { id: tokens[eos]!, type_id: type } }]),
    ]);
  const used = [bos, eos].filter((id) => id !== undefined);
  return {
    type: "TemplateProcessing",
    single: around(["A"]),
    pair: around(["A", "B"]),
    special_tokens: Object.fromEntries(used.map((id) => [tokens[id]!, { id: tokens[id]!, ids: [id], tokens: [tokens[id]!] }])),
  };
}

const broken = (gguf: GgufFile, what: string) =>
  new EspalierError("tokenizer-broken", `${gguf.file} does not hold a usable tokenizer: ${what}. Fetch or convert the file again.`);
