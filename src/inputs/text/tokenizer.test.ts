import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EspalierError } from "../../graph/errors.ts";
import { Tokenizer } from "./tokenizer.ts";
import { tokenizerFromDirectory } from "./tokenizer-directory.ts";
import { createLibraryTokenizer } from "./tokenizers-js.ts";
import { trainByteLevelBpe } from "./train-bpe.ts";

const corpus = ["the cat sat on the mat, and the other cat sat on the hat. It's 1984 – isn't it?\n\nThen they gathered there again."];
const json = trainByteLevelBpe(corpus, { vocabSize: 290, minFrequency: 1, specialTokens: ["<|endoftext|>", "<|pad|>"] });
const config = { bos_token: "<|endoftext|>", eos_token: { content: "<|endoftext|>" }, pad_token: "<|pad|>", model_max_length: 512 };
const tokenizer = Tokenizer.fromJson(json, config);
/** Well-formed text of any characters; lone surrogates have no UTF-8 form. */
const anyText = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({ unit: "grapheme" }),
  fc.constantFrom("\ufeffa", "  \n\n x", "e\u0301", "👨‍👩‍👧"),
);

describe("Tokenizer", () => {
  it("knows its special tokens, size and length", () => {
    expect(tokenizer).toMatchObject({ vocabSize: 290, bosId: 0, eosId: 0, padId: 1, unkId: undefined, maxLength: 512 });
    expect(tokenizer.isSpecial(1)).toBe(true);
    expect(tokenizer.encode("cat<|pad|>")).toEqual([...tokenizer.encode("cat"), 1]);
    expect(tokenizer.decode([...tokenizer.encode("cat"), 1], { skipSpecialTokens: true })).toBe("cat");
  });

  it("decodes what it encoded, for any text", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
    );
  });

  it("gives the library's ids, with GPT-2's split too", () => {
    const gpt2 = { ...json, pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true } };
    for (const file of [json, gpt2]) {
      const ours = Tokenizer.fromJson(file);
      const library = createLibraryTokenizer(file, {});
      fc.assert(
        fc.property(fc.oneof(anyText, fc.constantFrom("a<|pad|><|endoftext|> the cat", corpus[0]!)), (text) => {
          expect(ours.encode(text)).toEqual(library.encode(text, { add_special_tokens: true }).ids);
        }),
      );
    }
  });

  it("adds what the post-processor adds", () => {
    const single = [
      { SpecialToken: { id: "<|endoftext|>", type_id: 0 } },
      { Sequence: { id: "A", type_id: 0 } },
      { SpecialToken: { id: "<|pad|>", type_id: 0 } },
    ];
    const special_tokens = {
      "<|endoftext|>": { id: "<|endoftext|>", ids: [0], tokens: ["<|endoftext|>"] },
      "<|pad|>": { id: "<|pad|>", ids: [1], tokens: ["<|pad|>"] },
    };
    const template = Tokenizer.fromJson({ ...json, post_processor: { type: "TemplateProcessing", single, pair: single, special_tokens } });
    expect(template.encode("the cat")).toEqual([0, ...tokenizer.encode("the cat"), 1]);
    expect(template.encode("the cat", { addSpecialTokens: false })).toEqual(tokenizer.encode("the cat"));
  });

  it("names an id that is not in the vocabulary", () => {
    expect(() => tokenizer.decode([5000])).toThrow(/Token id 5000 is not in this tokenizer's vocabulary of 290/);
  });
});

describe("TextStream", () => {
  it("joins to the whole text and never shows half a character", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const stream = tokenizer.stream();
        const parts = tokenizer.encode(text).map((id) => stream.push(id));
        parts.push(stream.end());
        expect(parts.join("")).toBe(text);
        if (!text.includes("\ufffd")) for (const part of parts) expect(part).not.toMatch(/\ufffd|[\ud800-\udfff]/u);
      }),
    );
  });

  it("shows an unfinished character at the end, and starts afresh", () => {
    const stream = tokenizer.stream();
    const [first] = tokenizer.encode("漢");
    expect([stream.push(first!), stream.end(), stream.push(tokenizer.encode("a")[0]!)]).toEqual(["", "\ufffd", "a"]);
  });

  it("hides special tokens unless asked", () => {
    expect(tokenizer.stream().push(0)).toBe("");
    expect(tokenizer.stream({ skipSpecialTokens: false }).push(0)).toBe("<|endoftext|>");
  });

  it("streams through other decoders as well", () => {
    const words = Tokenizer.fromJson({
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: "WhitespaceSplit" },
      post_processor: null,
      decoder: { type: "WordPiece", prefix: "##", cleanup: false },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        vocab: { "[UNK]": 0, graft: 1, "##ing": 2, trees: 3 },
      },
    });
    const stream = words.stream();
    expect(words.encode("grafting trees")).toEqual([1, 2, 3]);
    expect([1, 2, 3].map((id) => stream.push(id))).toEqual(["graft", "ing", " trees"]);
  });
});

describe("a bad tokenizer.json", () => {
  const directory = () => mkdtempSync(join(tmpdir(), "espalier-tokenizer-"));

  it("missing: names the file and what is needed", async () => {
    const at = directory();
    await expect(tokenizerFromDirectory(at)).rejects.toThrow(/tokenizer\.json does not exist\. A model directory needs/);
    await expect(tokenizerFromDirectory(at)).rejects.toMatchObject({ code: "tokenizer-missing" });
  });

  it("cut short: names the file and the JSON error", async () => {
    const at = directory();
    writeFileSync(join(at, "tokenizer.json"), JSON.stringify(json).slice(0, 900));
    await expect(tokenizerFromDirectory(at)).rejects.toThrow(/tokenizer\.json is not valid JSON \(.*900 characters read/);
  });

  it("good, with and without its config", async () => {
    const at = directory();
    writeFileSync(join(at, "tokenizer.json"), JSON.stringify(json));
    expect((await tokenizerFromDirectory(at)).eosId).toBeUndefined();
    writeFileSync(join(at, "tokenizer_config.json"), JSON.stringify(config));
    expect((await tokenizerFromDirectory(at)).eosId).toBe(0);
  });

  it.each([
    ["no model", { ...json, model: undefined }, /model: /],
    ["an id that is text", { ...json, model: { ...json.model, vocab: { a: "x" } } }, /model\.vocab/],
    [
      "a merge of unknown tokens",
      { ...json, model: { ...json.model, merges: [["zz", "q"]] } },
      /model\.merges\[0\] \(\["zz","q"\]\) joins a token that model\.vocab lacks/,
    ],
    ["not an object", 3, /not a usable tokenizer/],
    ["an unknown model type", { ...json, model: { ...json.model, type: "Nonsense" } }, /model\.type: .*BPE/],
  ])("%s", (_, broken, message) => {
    expect(() => Tokenizer.fromJson(broken)).toThrow(message);
    expect(() => Tokenizer.fromJson(broken)).toThrow(EspalierError);
  });
});
