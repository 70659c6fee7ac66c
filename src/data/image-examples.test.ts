import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { EspalierError } from "../graph/errors.ts";
import { holdsImages, readImageExamples } from "./image-examples.ts";
import { splitExamples } from "./split.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-images-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const tree = (name: string, files: readonly string[]) => {
  for (const file of files) {
    mkdirSync(dirname(join(directory, name, file)), { recursive: true });
    writeFileSync(join(directory, name, file), file.replace(/copy of /, ""));
  }
  return join(directory, name);
};

test("directories are classes, in the order of their names", () => {
  const path = tree("classes", ["cat/b.PNG", "cat/a.jpg", "ant/deep/c.webp", "ant/.hidden.png", "ant/notes.txt", ".git/x.png"]);
  expect(holdsImages(path)).toBe(true);
  expect(readImageExamples(path).map((e) => [e.path.slice(path.length + 1), e.label])).toEqual([
    ["ant/deep/c.webp", "ant"],
    ["cat/a.jpg", "cat"],
    ["cat/b.PNG", "cat"],
  ]);
});

test("images without classes; both at once have no meaning", () => {
  expect(readImageExamples(tree("flat", ["a.png", "b.png"])).map((e) => e.label)).toEqual([undefined, undefined]);
  const mixed = tree("mixed", ["a.png", "cat/b.png"]);
  expect(() => readImageExamples(mixed)).toThrow(/1 images lie beside the directories of classes/);
  const empty = tree("empty", ["cat/a.png", "dog/notes.txt"]);
  expect(() => readImageExamples(empty)).toThrow(/empty\/dog: holds no image/);
  expect(holdsImages(tree("texts", ["a.jsonl"]))).toBe(false);
});

test("a column of paths, relative to the file", () => {
  const path = tree("table", ["images/a.png", "images/b.png"]);
  const file = join(path, "data.csv");
  writeFileSync(file, "image,label\nimages/a.png,x\nimages/b.png,y\n");
  expect(readImageExamples(file).map(({ path: image, label, line }) => [image, label, line])).toEqual([
    [join(path, "images/a.png"), "x", 2],
    [join(path, "images/b.png"), "y", 3],
  ]);
  writeFileSync(file, "image,label\nimages/a.png,x\nimages/c.png,y\nimages/a.gif,y\n");
  expect(() => readImageExamples(file)).toThrow(/data\.csv line 3: names .*c\.png, which does not exist\. 1 other line/);
  expect(() => readImageExamples(file, { imageColumn: "path" })).toThrow(/no column "path".*option imageColumn/);
});

test("a name that no file can have is refused with its line", () => {
  const file = join(tree("zero", ["a.png"]), "data.jsonl");
  writeFileSync(file, '{"image": "a.png"}\n{"image": "a\\u0000.png"}\n');
  expect(() => readImageExamples(file)).toThrow(expect.objectContaining({ code: "data-missing" }));
  expect(() => readImageExamples(file)).toThrow(/data\.jsonl line 2: names [ -~]*, which does not exist\. No other line is broken\.$/);
  expect(() => readImageExamples("a\u0000")).toThrow(EspalierError);
  expect(holdsImages("a\u0000")).toBe(false);
});

test("equal images stay on one side of a split", () => {
  const names = Array.from({ length: 20 }, (_, i) => [`cat/copy of ${i}.png`, `cat/${i}.png`, `dog/d${i}.png`]).flat();
  const { train, heldOut, duplicatesRemoved } = splitExamples(readImageExamples(tree("copies", names)));
  expect(duplicatesRemoved).toBe(20);
  expect(train.length + heldOut.length).toBe(40);
  expect(heldOut[0]!.path).toContain(directory);
});
