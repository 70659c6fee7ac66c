import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, attemptAsync, fuzzDirectory, jsonChanges, numRuns, tally, timeout } from "../../../tests/fuzz.ts";
import { GgufFile, ggufTokenizer } from "../../checkpoints/index.ts";
import { Tokenizer } from "./tokenizer.ts";
import { tokenizerFromDirectory } from "./tokenizer-directory.ts";

const fixture = (name: string) => join("tests/fixtures", name);
const read = (name: string) => JSON.parse(readFileSync(fixture(name), "utf8")) as Record<string, unknown>;
const wordPiece = {
  added_tokens: [{ id: 0, content: "[UNK]", special: true }],
  normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: { type: "BertProcessing", sep: ["[UNK]", 0], cls: ["[UNK]", 0] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(["[UNK]", "the", "cat", "##s", "sat", "a", "##a"].map((token, id) => [token, id])),
  },
};
const unigram = {
  added_tokens: [{ id: 0, content: "<unk>", special: true }],
  normalizer: { type: "Sequence", normalizers: [{ type: "NFKC" }, { type: "Replace", pattern: { Regex: " {2,}" }, content: " " }] },
  pre_tokenizer: { type: "Metaspace", replacement: "▁", add_prefix_space: true },
  decoder: { type: "Metaspace", replacement: "▁", add_prefix_space: true },
  model: { type: "Unigram", unk_id: 0, vocab: ["<unk>", "▁the", "▁c", "at", "s", "a", "▁"].map((piece, i) => [piece, -i]) },
};
const tokenizers = [
  read("chat/byte-level.json"),
  read("chat/sentence-piece.json"),
  ggufTokenizer(GgufFile.open(fixture("gguf-tiny/tokenizer-smollm.gguf"))).tokenizer,
  wordPiece,
  unigram,
].map((json) => JSON.stringify(json));
const config = JSON.stringify({
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: "<s>",
  eos_token: { content: "</s>", lstrip: false },
  pad_token: null,
  model_max_length: 1e30,
  clean_up_tokenization_spaces: true,
});

const texts = ["the  cat sat 1984 漢 é\u0000 </s>", `${"a".repeat(60)}!`, "ab ".repeat(300), "a".repeat(3000)];
const directory = fuzzDirectory();

async function load(json: string | Uint8Array, configJson: string | Uint8Array, text: string) {
  writeFileSync(join(directory.path, "tokenizer.json"), json);
  writeFileSync(join(directory.path, "tokenizer_config.json"), configJson);
  return attemptAsync({ names: directory.path, bytes: json.length + configJson.length + text.length }, async () => {
    const tokenizer = await tokenizerFromDirectory(directory.path);
    const ids = tokenizer.encode(text);
    for (const id of ids) expect(tokenizer.token(id)).toBeDefined();
    tokenizer.decode(ids, { skipSpecialTokens: true });
    const stream = tokenizer.stream();
    for (const id of ids.slice(0, 50)) stream.push(id);
    stream.end();
  });
}

test("any change of tokenizer.json", { timeout }, async () => {
  const outcomes = tally();
  const changed = fc.nat(tokenizers.length - 1).chain((index) => jsonChanges(tokenizers[index]!));
  await fc.assert(
    fc.asyncProperty(changed, fc.constantFrom(...texts), async (json, text) => outcomes.count(await load(json, config, text))),
    { numRuns },
  );
  outcomes.expectBoth();
});

test("any change of tokenizer_config.json", { timeout }, async () => {
  const outcomes = tally();
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...tokenizers), jsonChanges(config), async (json, changed) =>
      outcomes.count(await load(json, changed, texts[0]!)),
    ),
    { numRuns },
  );
  outcomes.expectBoth();
});

const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });
const replace = (Regex: string) => ({ type: "Replace", pattern: { Regex }, content: "b" });
const encoding: readonly ((pattern: string) => object)[] = [
  (pattern) => ({ ...unigram, pre_tokenizer: split(pattern) }),
  (pattern) => ({ ...unigram, normalizer: replace(pattern) }),
  // The way that does not lead through the library.
  (pattern) => ({
    ...read("chat/byte-level.json"),
    pre_tokenizer: { type: "Sequence", pretokenizers: [split(pattern), { type: "ByteLevel", add_prefix_space: false, use_regex: false }] },
  }),
];
const places = [...encoding, (pattern: string) => ({ ...unigram, decoder: replace(pattern) })];

test.each(["(a+)+$", "(a|a)*$", "(a*)*b", "((a?)+)+$", "^(\\w+\\s?)*$", "(?=(a+)+$)"].map((pattern, i) => [i, pattern] as const))(
  "%i %s is stopped within a second",
  (i, pattern) => {
    const outcome = attempt({ names: "dir/tokenizer.json", bytes: 1e4 }, () => {
      const tokenizer = Tokenizer.fromJson(encoding[i % 3]!(pattern), {}, "dir/tokenizer.json");
      tokenizer.encode(`${"a".repeat(200)}!`);
    });
    expect(outcome).toBe("refused");
  },
);

test("any pattern", { timeout: timeout * 4 }, () => {
  const piece = fc.constantFrom(
    "a",
    "b",
    ".",
    "[ab]",
    "[^a]",
    "\\s",
    "\\p{L}",
    "\\w",
    "(",
    "(?:",
    "(?=",
    "(?!",
    ")",
    ")+",
    ")*",
    "+",
    "*",
    "?",
    "{2,}",
    "|",
    "^",
    "$",
    "\\1",
    "\\h",
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 8 }), fc.constantFrom(...places), fc.constantFrom(...texts), (pieces, place, text) => {
      attempt({ names: "dir/tokenizer.json", bytes: 1e4 + text.length }, () => {
        const tokenizer = Tokenizer.fromJson(place(pieces.join("")), {}, "dir/tokenizer.json");
        tokenizer.decode(tokenizer.encode(text));
      });
    }),
    { numRuns },
  );
});
