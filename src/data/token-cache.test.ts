import { readdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, byteMutations, fuzzDirectory, mutated, numRuns, timeout } from "../../tests/fuzz.ts";
import { Tokenizer } from "../inputs/index.ts";
import { tokenizerFromDirectory } from "../inputs/text/index.ts";
import { cachedTable, encodedTexts } from "./token-cache.ts";
import { openTokenTable, TokenTableWriter } from "./token-table.ts";

const directory = fuzzDirectory();
const sapling = "models/sapling";
const rowsOf = (table: { rows: number; ids(row: number): ArrayLike<number> }) =>
  Array.from({ length: table.rows }, (_, row) => Array.from(table.ids(row)));

test.each([300, 100_000])("rows of ids and marks come back, with a vocabulary of %i", (vocabSize) => {
  const rows = [[1, vocabSize - 1, 3], [], [7], Array.from({ length: 20 }, (_, i) => i)];
  const marks = rows.map((row) => row.map((_, i) => (i % 3 === 0 ? 1 : 0)));
  for (const path of [undefined, join(directory.path, `rows-${vocabSize}`)]) {
    const writer = new TokenTableWriter("k", { path, vocabSize, marked: true });
    for (const [i, row] of rows.entries()) writer.add(row, marks[i]);
    const table = writer.commit();
    expect(rowsOf(table)).toEqual(rows);
    expect(rows.map((_, i) => Array.from(table.marks(i)))).toEqual(marks);
    expect(Array.from(table.subarray(1, 5))).toEqual([vocabSize - 1, 3, 7, 0]);
    expect([table.length, table.lengthOf(3)]).toEqual([24, 20]);
    table.close();
  }
});

test("the second time nothing is encoded; other texts, tokenizers and damaged files are made anew", async () => {
  const cache = join(directory.path, "cache");
  const notices: string[] = [];
  let encoded = 0;
  const options = { cache, onNotice: (message: string) => notices.push(message), onProgress: () => encoded++ };
  const tokenizer = await tokenizerFromDirectory(sapling);
  const texts = ["Spam, spam.", "", "é 🙂"];
  const expected = texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false }));
  for (const count of [3, 3]) {
    expect(rowsOf(encodedTexts(tokenizer, texts, options))).toEqual(expected);
    expect(encoded).toBe(count);
  }
  const [name] = readdirSync(cache) as [string];
  // The same texts cut elsewhere are others.
  encodedTexts(tokenizer, ["Spam, spam.", "é", " 🙂"], options);
  expect(encoded).toBe(6);
  truncateSync(join(cache, name), 20);
  expect(rowsOf(encodedTexts(tokenizer, texts, options))).toEqual(expected);
  expect(encoded).toBe(9);
  expect(notices).toEqual([expect.stringMatching(/\.tokens: is damaged \(.*\)\. It is made again\./)]);
  // A tokenizer of which nobody knows the files leaves nothing behind.
  const json = JSON.parse(readFileSync(join(sapling, "tokenizer.json"), "utf8"));
  encodedTexts(Tokenizer.fromJson(json), texts, options);
  expect(readdirSync(cache)).toHaveLength(2);
});

test("a cache that cannot be written is done without, and said", () => {
  const file = join(directory.path, "file");
  writeFileSync(file, "");
  const notices: string[] = [];
  const options = { cache: file, onNotice: (message: string) => notices.push(message) };
  expect(rowsOf(cachedTable("k", { vocabSize: 10 }, (table) => table.add([1]), options))).toEqual([[1]]);
  expect(notices).toEqual([expect.stringMatching(/file: cannot be written .* ESPALIER_CACHE names another directory/)]);
});

test("nothing is left of a table that was not finished; what is old goes", () => {
  const cache = join(directory.path, "unfinished");
  const build = () => {
    throw new Error("stop");
  };
  expect(() => cachedTable("k", { vocabSize: 10 }, build, { cache })).toThrow("stop");
  expect(readdirSync(cache)).toEqual([]);
  cachedTable("k", { vocabSize: 10 }, (table) => table.add([1]), { cache }).close();
  const old = new Date(Date.now() - 61 * 86_400_000);
  utimesSync(join(cache, "k.tokens"), old, old);
  cachedTable("l", { vocabSize: 10 }, (table) => table.add([1]), { cache }).close();
  expect(readdirSync(cache)).toEqual(["l.tokens"]);
});

test("damaged tables", { timeout }, () => {
  const path = join(directory.path, "fuzz");
  const writer = new TokenTableWriter("k", { path, vocabSize: 300, marked: true });
  for (const row of [[1, 2, 3], [4], [250, 6]])
    writer.add(
      row,
      row.map((id) => id % 2),
    );
  writer.commit().close();
  const original = readFileSync(path);
  fc.assert(
    fc.property(byteMutations, (mutations) => {
      const bytes = mutated(original, mutations);
      writeFileSync(path, bytes);
      const outcome = attempt({ names: path, bytes: bytes.length }, () => openTokenTable(path, "k").close());
      expect(outcome).toBe(bytes.equals(original) ? "succeeded" : "refused");
    }),
    { numRuns },
  );
});
