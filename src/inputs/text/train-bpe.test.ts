import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { byteToChar, fromByteLevel, toByteLevel } from "./byte-level.ts";
import { Tokenizer } from "./tokenizer.ts";
import { digitSplitPattern, trainByteLevelBpe } from "./train-bpe.ts";

const texts = [
  "the cat sat on the mat, and the other cat sat on the hat.",
  "Then they gathered there: 1984 and 2001 are years; don't count them.",
  "aaaa aaaaa aaaaaa banana bandana, café naïve 漢字 漢字 🎉🎉",
];

describe("trainByteLevelBpe", () => {
  it("merges the most frequent pair first, and the pair with smaller ids on a tie", () => {
    const { model } = trainByteLevelBpe(["ab ab ab cd cd"], { vocabSize: 258 + 3 });
    // "ab" occurs 3 times; " a" "b", " c" and "cd" are tied at 2, and the space is the smallest byte among them.
    expect(model.merges[0]).toEqual(["a", "b"]);
    expect(model.merges[1]).toEqual(["Ġ", "c"]);
  });

  it("puts special tokens first, then the 256 bytes, then merges", () => {
    const json = trainByteLevelBpe(texts, { vocabSize: 300, minFrequency: 1, specialTokens: ["<|endoftext|>", "<|pad|>"] });
    expect(json.added_tokens.map((token) => [token.id, token.content, token.special])).toEqual([
      [0, "<|endoftext|>", true],
      [1, "<|pad|>", true],
    ]);
    expect(json.model.vocab[byteToChar[0]!]).toBe(2);
    expect(Object.keys(json.model.vocab)).toHaveLength(300);
    expect(Math.max(...Object.values(json.model.vocab))).toBe(299);
  });

  it("is deterministic", () => {
    const options = { vocabSize: 320, specialTokens: ["<|endoftext|>"] };
    expect(JSON.stringify(trainByteLevelBpe(texts, options))).toBe(JSON.stringify(trainByteLevelBpe(texts, options)));
  });

  it("stops short when no pair is frequent enough", () => {
    expect(Object.keys(trainByteLevelBpe(["abc"], { vocabSize: 1000, minFrequency: 2 }).model.vocab)).toHaveLength(256);
  });

  it("learns what a naive recount after every merge learns", () => {
    const word = fc.stringMatching(/^[abc]{1,8}$/);
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 30 }), (words) => {
        const trained = trainByteLevelBpe([words.join(" ")], { vocabSize: 256 + 12 }).model.merges;
        expect(trained).toEqual(naiveMerges(words.join(" "), 12));
      }),
    );
  });

  it("gives a tokenizer whose library encoding equals applying the merges by hand", () => {
    const json = trainByteLevelBpe(texts, { vocabSize: 340 });
    const tokenizer = Tokenizer.fromJson(json);
    for (const text of [...texts, "thermal bananas", "  two  spaces\n\nlines\r\n", "Ünïcode 3.14", ""]) {
      expect(tokenizer.encode(text).map((id) => tokenizer.token(id))).toEqual(applyMerges(text, json.model.merges));
    }
  });

  it("refuses a vocabulary too small for the bytes and repeated special tokens", () => {
    expect(() => trainByteLevelBpe(texts, { vocabSize: 100 })).toThrow(/vocabSize is 100; it must be a whole number of at least 256/);
    expect(() => trainByteLevelBpe(texts, { vocabSize: 300, specialTokens: ["<x>", "<x>"] })).toThrow(/listed twice/);
  });
});

describe("the byte alphabet", () => {
  it("is one distinct character per byte and reverses", () => {
    expect(new Set(byteToChar).size).toBe(256);
    expect(toByteLevel("é ")).toBe("Ã©Ġ");
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect(new TextDecoder("utf-8", { ignoreBOM: true }).decode(fromByteLevel(toByteLevel(text)))).toBe(text);
      }),
    );
    expect(fromByteLevel("<|漢|>")).toBeUndefined();
  });
});

function applyMerges(text: string, merges: readonly [string, string][]): string[] {
  const rank = new Map(merges.map(([left, right], index) => [`${left} ${right}`, index]));
  return [...text.matchAll(new RegExp(digitSplitPattern, "gu"))].flatMap(([piece]) => {
    const symbols = [...toByteLevel(piece)];
    for (;;) {
      let best = -1;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const candidate = rank.get(`${symbols[i]} ${symbols[i + 1]}`);
        if (candidate !== undefined && (best < 0 || candidate < rank.get(`${symbols[best]} ${symbols[best + 1]}`)!)) best = i;
      }
      if (best < 0) return symbols;
      symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
    }
  });
}

function naiveMerges(text: string, limit: number): [string, string][] {
  const words = [...text.matchAll(new RegExp(digitSplitPattern, "gu"))].map(([piece]) => [...toByteLevel(piece)]);
  const order = [...byteToChar];
  const merges: [string, string][] = [];
  const refused = new Set<string>();
  while (merges.length < limit) {
    const counts = new Map<string, number>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) counts.set(`${word[i]} ${word[i + 1]}`, (counts.get(`${word[i]} ${word[i + 1]}`) ?? 0) + 1);
    }
    const ids = (pair: string) => pair.split(" ").map((token) => order.indexOf(token)) as [number, number];
    const best = [...counts]
      .filter(([pair, count]) => count >= 2 && !refused.has(pair))
      .sort(([a, m], [b, n]) => n - m || ids(a)[0] - ids(b)[0] || ids(a)[1] - ids(b)[1])[0];
    if (!best) break;
    const [left, right] = best[0].split(" ") as [string, string];
    if (order.includes(left + right)) {
      refused.add(best[0]);
      continue;
    }
    order.push(left + right);
    merges.push([left, right]);
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
    }
  }
  return merges;
}
