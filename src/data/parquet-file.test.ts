import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { attempt, byteMutations, fuzzDirectory, mutated, numRuns, tally, timeout } from "../../tests/fuzz.ts";
import { holdsConversations, readConversations } from "./conversations.ts";
import { ParquetFile } from "./parquet-file.ts";
import { readExamples } from "./records.ts";

const fixture = (name: string) => fileURLToPath(new URL(`../../tests/fixtures/parquet/${name}.parquet`, import.meta.url));
const directory = fuzzDirectory();

// As tests/fixtures/make_parquet.py writes them.
const texts = Array.from({ length: 10 }, (_, i) => `line ${i} é ${"spam ".repeat(i % 3)}`);

describe("files that Arrow wrote", () => {
  test.each(["none", "snappy", "gzip", "zstd", "brotli", "lz4", "v2", "pages", "delta"])("%s", (name) => {
    const file = new ParquetFile(fixture(name));
    const rows = file.groupSizes.flatMap((_, group) => file.rows(group, ["text", "label", "count"]));
    file.close();
    expect(rows.map((row) => row.text)).toEqual(texts);
    expect(rows.map((row) => row.count)).toEqual(texts.map((_, i) => i));
    if (name !== "delta") expect(rows.map((row) => row.label)).toEqual(texts.map((_, i) => (i === 4 ? null : i % 2 ? "ham" : "spam")));
  });

  test("row groups are read one by one, and only the columns asked for", () => {
    const file = new ParquetFile(fixture("snappy"));
    expect(file.groupSizes).toEqual([4, 4, 2]);
    expect(file.columns).toEqual(["text", "label", "count", "junk"]);
    expect(file.rows(2, ["count"])).toEqual([{ count: 8 }, { count: 9 }]);
    file.close();
  });

  test("examples; labels of other types are read as strings", () => {
    expect(readExamples(fixture("snappy"), { textColumn: "text", labelColumn: "count" }).map(({ label, line }) => [label, line])).toEqual(
      texts.map((_, i) => [String(i), i + 1]),
    );
    expect(readExamples(fixture("types"))).toEqual(
      [0, 1, 2].map((i) => ({ text: "abc"[i], label: String(i), file: fixture("types"), line: i + 1 })),
    );
  });

  test("conversations are lists of structs; what a message lacks is absent", () => {
    expect(holdsConversations(fixture("chats"))).toBe(true);
    expect(holdsConversations(fixture("snappy"))).toBe(false);
    expect(readConversations(fixture("chats")).map(({ messages, line }) => [line, messages])).toEqual([
      [
        1,
        [
          { role: "user", content: "Hi" },
          { role: "assistant", content: "Hello." },
        ],
      ],
      [
        2,
        [
          { role: "system", content: "Be brief." },
          { role: "user", content: "1 + 1?", name: "Ada" },
          { role: "assistant", content: "2" },
        ],
      ],
      [
        3,
        [
          { role: "user", content: "é?" },
          { role: "assistant", content: "é." },
        ],
      ],
    ]);
  });
});

describe("what is refused", () => {
  test.each([
    [
      () => readExamples(fixture("snappy")),
      /snappy\.parquet row 5: has no label, but row 1 has one \(1 of 10 examples have none\)\. Label every row/,
    ],
    [
      () => readExamples(fixture("snappy"), { textColumn: "body" }),
      /the file has no column "body"; its columns are "text", "label", "count", "junk"/,
    ],
    [
      () => readExamples(fixture("types"), { textColumn: "flag" }),
      /types\.parquet row 1: "flag" is a boolean; it must be a string\. 2 other rows/,
    ],
    [() => readExamples(fixture("not-utf8")), /not-utf8\.parquet: .*rows 1 to 2, column "text" cannot be read/],
    [() => readExamples(fixture("empty")), /empty\.parquet: has no rows/],
    [() => readConversations(fixture("types")), /types\.parquet row 1: has no list "messages"/],
  ])("%#", (run, message) => {
    expect(run).toThrow(message);
  });

  test("a file that was cut short", () => {
    const path = `${directory.path}/cut.parquet`;
    writeFileSync(path, readFileSync(fixture("snappy")));
    truncateSync(path, 1000);
    expect(() => readExamples(path)).toThrow(/cut\.parquet: is no Parquet file or is damaged: its footer .*does not end with PAR1/);
    writeFileSync(path, "");
    expect(() => readExamples(path)).toThrow(/0 bytes are too few/);
  });
});

test("damaged files", { timeout }, () => {
  const outcomes = tally();
  const originals = ["none", "snappy", "gzip", "zstd", "v2", "pages", "delta", "chats"].map((name) => readFileSync(fixture(name)));
  fc.assert(
    fc.property(fc.constantFrom(...originals), byteMutations, (original, mutations) => {
      const path = `${directory.path}/fuzz.parquet`;
      const bytes = mutated(original, mutations);
      writeFileSync(path, bytes);
      const outcome = attempt({ names: path, bytes: bytes.length, buffers: 2 ** 26 }, () => {
        const file = new ParquetFile(path);
        try {
          for (const group of file.groupSizes.keys()) expect(file.rows(group)).toHaveLength(file.groupSizes[group]!);
        } finally {
          file.close();
        }
      });
      outcomes.count(outcome);
    }),
    { numRuns: numRuns * 4 },
  );
  outcomes.expectBoth();
});
