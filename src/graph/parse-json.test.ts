import fc from "fast-check";
import { expect, test } from "vitest";
import { parseJson } from "./parse-json.ts";

test("parses what JSON.parse parses, and refuses what it refuses", () => {
  const text = fc.oneof(
    fc.json(),
    fc.string(),
    fc.array(fc.constantFrom('"', "\\", "[", "]", "{", "}", ":", ",", "1")).map((parts) => parts.join("")),
  );
  fc.assert(
    fc.property(text, (json) => {
      let expected: unknown;
      try {
        expected = JSON.parse(json);
      } catch {
        expect(() => parseJson(json)).toThrow(SyntaxError);
        return;
      }
      expect(parseJson(json)).toEqual(expected);
    }),
  );
});

test("refuses values nested more than 500 deep; brackets in strings and beside each other do not nest", () => {
  const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
  expect(() => parseJson(nested(500))).not.toThrow();
  expect(() => parseJson(nested(501))).toThrow("values are nested more than 500 deep at position 500");
  expect(() => parseJson(`{"a":${nested(500)}}`)).toThrow(/more than 500 deep/);
  expect(parseJson(JSON.stringify(`\\"${"[".repeat(2000)}`))).toHaveLength(2002);
  expect(parseJson(`[${Array(2000).fill("{}").join(",")}]`)).toHaveLength(2000);
});
