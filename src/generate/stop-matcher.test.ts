import fc from "fast-check";
import { expect, test } from "vitest";
import { StopMatcher } from "./stop-matcher.ts";

function read(stops: string[], pieces: string[]): { shown: string[]; stopped: boolean } {
  const matcher = new StopMatcher(stops);
  const shown: string[] = [];
  for (const piece of pieces) {
    const { text, stopped } = matcher.push(piece);
    shown.push(text);
    if (stopped) return { shown, stopped };
  }
  shown.push(matcher.end());
  return { shown, stopped: false };
}

test("a stop string that spans pieces is cut exactly, and its beginning is never shown", () => {
  expect(read(["\nUser:"], ["Hi", " there\n", "Us", "er", ":", " more"])).toEqual({ shown: ["Hi", " there", "", "", ""], stopped: true });
});

test("text that only began like a stop string is shown as soon as that is clear", () => {
  expect(read(["END"], ["an E", "N", "ough", " E"])).toEqual({ shown: ["an ", "", "ENough", " ", "E"], stopped: false });
});

test("a beginning may start within an abandoned one", () => {
  expect(read(["aab"], ["aaa", "b", "c"])).toEqual({ shown: ["a", ""], stopped: true });
});

test("the stop string that is complete first counts; of two that end together the longer one", () => {
  expect(read(["abcd", "c"], ["abcd"]).shown).toEqual(["ab"]);
  expect(read(["b", "ab"], ["xab"]).shown).toEqual(["x"]);
});

test("how the text is cut makes no difference", () => {
  const text = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 24 });
  const stops = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 4 }), { maxLength: 3 });
  fc.assert(
    fc.property(text, stops, fc.array(fc.nat(24)), (whole, stops, cuts) => {
      const places = [0, ...cuts.filter((c) => c < whole.length).sort((a, b) => a - b), whole.length];
      const pieces = places.slice(1).map((end, i) => whole.slice(places[i], end));
      const inPieces = read(stops, pieces);
      const byCharacter = read(stops, [...whole]);
      expect(inPieces.shown.join("")).toBe(byCharacter.shown.join(""));
      expect(inPieces.stopped).toBe(byCharacter.stopped);
      for (const stop of stops) expect(inPieces.shown.join("")).not.toContain(stop);
    }),
  );
});
