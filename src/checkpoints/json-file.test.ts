import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readJsonObject, readJsonToCopy, writeJson } from "./json-file.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

const file = (name: string, text?: string) => {
  if (text !== undefined) writeFileSync(join(directory, name), text);
  return join(directory, name);
};

test("a copy keeps numbers as they were written, wherever they stand", () => {
  const text = `{
  "whole": 1.0,
  "negative": -2.50e1,
  "large": 1e20,
  "integer": 7,
  "small": 1e-05,
  "text": "is 3.0, said \\"4.0\\"",
  "nested": {
    "list": [
      0.0,
      5,
      6.25
    ],
    "7.0": "8.0"
  }
}
`;
  const copy = readJsonToCopy(file("a.json", text));
  expect(copy).not.toEqual(readJsonObject(file("a.json")));
  writeJson(file("b.json"), { ...copy, integer: 8 });
  expect(readFileSync(file("b.json"), "utf8")).toBe(text.replace("7,", "8,").replace("1e-05", "0.00001"));
  expect(readJsonObject(file("b.json"))).toEqual({ ...readJsonObject(file("a.json")), integer: 8 });
});

test("what is no number stays text", () => {
  writeJson(file("c.json"), { a: "\u0000x", b: "\u0000", c: "1.0" });
  expect(readJsonObject(file("c.json"))).toEqual({ a: "\u0000x", b: "\u0000", c: "1.0" });
});

test("a broken file is refused by name", () => {
  expect(() => readJsonToCopy(file("d.json", '{ "a": 1.0'))).toThrow(/d\.json: is not valid JSON/);
});
