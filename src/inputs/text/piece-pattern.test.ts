import { expect, test } from "vitest";
import { piecePattern } from "./piece-pattern.ts";
import { checkTokenizerJson } from "./tokenizer-file.ts";
import { digitSplitPattern } from "./train-bpe.ts";

const patternOf = (Regex: string) =>
  piecePattern(
    checkTokenizerJson(
      {
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: [
            { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
            { type: "ByteLevel", add_prefix_space: false, use_regex: false },
          ],
        },
        model: { type: "BPE", vocab: { a: 0 }, merges: [] },
      },
      {},
      "tokenizer.json",
    ).file,
  );

const llama3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

test.each([
  ["GPT-2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"],
  ["Llama 3", llama3],
  ["Qwen 2", llama3.replace("{1,3}", "")],
  ["Sapling", digitSplitPattern],
])("%s: known, and quick on long runs of anything", (_, source) => {
  const { expression, linear } = patternOf(source)!;
  expect(linear).toBe(true);
  for (const unit of [" ", "\n", " \n", "a", "1", "!", "'", "\r!", "a1 "]) {
    const text = unit.repeat(200_000 / unit.length);
    const start = performance.now();
    expect([...text.matchAll(expression)].map(([piece]) => piece).join("")).toBe(text);
    expect(performance.now() - start).toBeLessThan(1000);
  }
});

test.each(["(a+)+$", `(?:${llama3})+`, "\\s*[\\r\\n]+", `${llama3}|(a+)+$`, "\\s+|(a+)+|\\s+", "a|\\s+", ""])("%s: not known", (source) => {
  expect(patternOf(source)!.linear).toBe(false);
});
