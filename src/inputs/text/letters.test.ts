import fc from "fast-check";
import { expect, test } from "vitest";
import { Letters } from "./letters.ts";

const vocabulary = { "<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, A: 5, B: 6, "'": 7 };

test("text becomes the ids of its letters, in the case that there is, with a gap between words; and back", () => {
  const letters = Letters.fromVocabulary(vocabulary, "|", "vocab.json");
  expect(letters.encode(" ab  'A b\n")).toEqual({ ids: [5, 6, 4, 7, 5, 4, 6], unknown: [] });
  expect(letters.decode([5, 6, 4, 7, 5, 4, 6])).toBe("AB 'A B");
  expect(letters.encode("axb!")).toEqual({ ids: [5, 6], unknown: ["x", "!"] });
  expect(letters.decode([0, 1, 5, 3, 4, 2, 99])).toBe("A");
});

test("the letters of texts hold all that they need, with nothing at the blank's place", () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: "grapheme" }), { minLength: 1 }), fc.nat({ max: 12 }), (texts, blank) => {
      const letters = Letters.ofTexts(texts, blank);
      expect(letters.letters[blank]).toBe("<pad>");
      for (const text of texts) {
        const clean = text.replaceAll("|", "");
        const { ids, unknown } = letters.encode(clean);
        expect(unknown).toEqual([]);
        expect(ids).not.toContain(blank);
        expect(letters.decode(ids)).toBe(clean.split(/\s+/u).filter(Boolean).join(" "));
      }
    }),
  );
});

test("a vocabulary whose ids are no places is refused", () => {
  for (const broken of [{ a: -1 }, { a: 0, b: 0 }, { a: "0" }, { a: 1e9 }])
    expect(() => Letters.fromVocabulary(broken, "|", "dir/vocab.json")).toThrow(/dir\/vocab\.json: the letter "[ab]" has no id of its own/);
});
