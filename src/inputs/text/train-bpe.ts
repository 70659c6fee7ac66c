/**
 * Trains a byte-level BPE vocabulary and writes it as a Hugging Face `tokenizer.json`.
 *
 * Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909) on the bytes of pre-tokens, as GPT-2 does. Distinct pre-tokens are counted once;
 * a heap of pair counts with stale entries makes a merge cost only the words it touches. Ties go to the pair with the smaller ids, so that
 * the same texts give the same file.
 */
import { EspalierError } from "../../graph/errors.ts";
import { byteToChar } from "./byte-level.ts";

/**
 * Llama 3's split with digits taken one by one, which a small vocabulary needs: three-digit groups alone would be a thousand entries.
 * Cases are spelled out instead of `(?i:…)`, which JavaScript lacks.
 */
export const digitSplitPattern =
  "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

export interface TrainBpeOptions {
  /** Size of the finished vocabulary: special tokens, the 256 bytes, then merges. */
  vocabSize: number;
  /** They take the first ids, in this order. */
  specialTokens?: readonly string[];
  /** A pair seen less often is not merged; training may then stop short of `vocabSize`. */
  minFrequency?: number;
}

export interface TokenizerJson {
  version: "1.0";
  truncation: null;
  padding: null;
  added_tokens: {
    id: number;
    content: string;
    single_word: boolean;
    lstrip: boolean;
    rstrip: boolean;
    normalized: boolean;
    special: boolean;
  }[];
  normalizer: null;
  pre_tokenizer: object;
  post_processor: null;
  decoder: object;
  model: { type: "BPE"; vocab: Record<string, number>; merges: [string, string][]; [option: string]: unknown };
}

interface Word {
  ids: number[];
  count: number;
}

interface Candidate {
  left: number;
  right: number;
  count: number;
}

/** Pairs as one number; a vocabulary is far below 2²⁴ entries. */
const pairKey = (left: number, right: number) => left * 0x1000000 + right;

export function trainByteLevelBpe(texts: Iterable<string>, options: TrainBpeOptions): TokenizerJson {
  const { vocabSize, specialTokens = [], minFrequency = 2 } = options;
  const reserved = specialTokens.length;
  if (!Number.isInteger(vocabSize) || vocabSize < reserved + 256 || vocabSize > 0xffffff) {
    throw new EspalierError(
      "bad-vocab-size",
      `vocabSize is ${vocabSize}; it must be a whole number of at least ${reserved + 256} (${reserved} special tokens and the 256 bytes).`,
    );
  }
  if (new Set(specialTokens).size !== reserved)
    throw new EspalierError("duplicate-special-token", `A special token is listed twice in ${JSON.stringify(specialTokens)}.`);

  const tokens = [...specialTokens, ...byteToChar];
  const words = countWords(texts, reserved);
  const merges: [string, string][] = [];
  const known = new Set(tokens);

  const counts = new Map<number, number>();
  const places = new Map<number, Set<number>>();
  words.forEach((word, index) => {
    for (let i = 0; i + 1 < word.ids.length; i++) adjust(pairKey(word.ids[i]!, word.ids[i + 1]!), word.count, index);
  });
  const heap = new CandidateHeap();
  for (const [key, count] of counts) heap.push(candidate(key, count));

  while (tokens.length < vocabSize) {
    const best = heap.pop();
    if (!best || best.count < minFrequency) break;
    const key = pairKey(best.left, best.right);
    const current = counts.get(key) ?? 0;
    if (current !== best.count) {
      // The count fell since this entry was pushed (rises push a new entry): look at it again at its true place.
      if (current > 0 && current < best.count) heap.push({ ...best, count: current });
      continue;
    }
    const merged = tokens[best.left]! + tokens[best.right]!;
    counts.delete(key);
    // Two paths to one string ("a"+"bc", "ab"+"c") would give it two ids.
    if (known.has(merged)) continue;
    const id = tokens.push(merged) - 1;
    known.add(merged);
    merges.push([tokens[best.left]!, tokens[best.right]!]);
    const touched = new Set<number>();
    const holders = places.get(key) ?? new Set<number>();
    places.delete(key);
    for (const index of holders) mergeIn(words[index]!, index, best.left, best.right, id, touched);
    for (const pair of touched) {
      const count = counts.get(pair) ?? 0;
      if (count > 0) heap.push(candidate(pair, count));
    }
  }
  return tokenizerJson(tokens, reserved, merges);

  function adjust(key: number, by: number, index: number): void {
    counts.set(key, (counts.get(key) ?? 0) + by);
    if (by < 0) return;
    const holders = places.get(key);
    if (holders) holders.add(index);
    else places.set(key, new Set([index]));
  }

  /** Recounts the word's pairs around the merge; `touched` collects the pairs whose count rose. */
  function mergeIn(word: Word, index: number, left: number, right: number, id: number, touched: Set<number>): void {
    const { ids, count } = word;
    const next: number[] = [];
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] === left && ids[i + 1] === right) {
        next.push(id);
        i++;
      } else next.push(ids[i]!);
    }
    if (next.length === ids.length) return;
    for (let i = 0; i + 1 < ids.length; i++) {
      const key = pairKey(ids[i]!, ids[i + 1]!);
      if (counts.has(key)) adjust(key, -count, index);
    }
    for (let i = 0; i + 1 < next.length; i++) {
      const key = pairKey(next[i]!, next[i + 1]!);
      adjust(key, count, index);
      if (next[i] === id || next[i + 1] === id) touched.add(key);
    }
    word.ids = next;
  }
}

function countWords(texts: Iterable<string>, firstByteId: number): Word[] {
  const pattern = new RegExp(digitSplitPattern, "gu");
  const tally = new Map<string, number>();
  for (const text of texts) for (const piece of text.match(pattern) ?? []) tally.set(piece, (tally.get(piece) ?? 0) + 1);
  const encoder = new TextEncoder();
  return [...tally].map(([piece, count]) => ({ ids: Array.from(encoder.encode(piece), (byte) => firstByteId + byte), count }));
}

function candidate(key: number, count: number): Candidate {
  return { left: Math.floor(key / 0x1000000), right: key % 0x1000000, count };
}

function before(a: Candidate, b: Candidate): boolean {
  if (a.count !== b.count) return a.count > b.count;
  return a.left !== b.left ? a.left < b.left : a.right < b.right;
}

class CandidateHeap {
  readonly #items: Candidate[] = [];

  push(item: Candidate): void {
    const items = this.#items;
    let at = items.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(item, items[parent]!)) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = item;
  }

  pop(): Candidate | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (top === undefined || last === undefined || items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && before(items[child + 1]!, items[child]!)) child++;
      if (!before(items[child]!, last)) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = last;
    return top;
  }
}

function tokenizerJson(tokens: readonly string[], specials: number, merges: [string, string][]): TokenizerJson {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: tokens
      .slice(0, specials)
      .map((content, id) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true })),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: digitSplitPattern }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}
