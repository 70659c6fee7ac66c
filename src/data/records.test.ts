import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { type ReadOptions, readExamples } from "./records.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-records-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const write = (name: string, content: string | Uint8Array) => {
  const file = join(directory, name);
  writeFileSync(file, content);
  return file;
};
const read = (name: string, content: string | Uint8Array, options?: ReadOptions) =>
  readExamples(write(name, content), options).map(({ text, label, line }) => [text, label, line]);
const message = (name: string, content: string | Uint8Array, options?: ReadOptions) => {
  const file = write(name, content);
  const { code, message } = refusal(() => readExamples(file, options), directory);
  return `${code}: ${message}`;
};

describe("what is read", () => {
  test("jsonl: a prompt and its completion are one text, joined as they are", () => {
    expect(read("a.jsonl", '{"prompt":"2 + 2 =","completion":" 4"}')).toEqual([["2 + 2 = 4", undefined, 1]]);
    expect(message("a.jsonl", '{"prompt":"2 + 2 ="}')).toContain('has no "text" (it has "prompt");');
    expect(message("a.jsonl", '{"prompt":"2","completion":"4"}', { textColumn: "body" })).toContain('has no "body" (');
  });

  test("csv: blanks around a label do not make another class", () => {
    expect(read("a.csv", "text,label\na, spam\n b ,spam\n")).toEqual([
      ["a", "spam", 2],
      [" b ", "spam", 3],
    ]);
  });

  test("jsonl: labels become strings, blank lines do not count as examples", () => {
    const lines = ['{"text":"a","label":"x"}', "", '{"text":"b","label":0}', '{"label":false,"text":"c"}'];
    expect(read("a.jsonl", lines.join("\n"))).toEqual([
      ["a", "x", 1],
      ["b", "0", 3],
      ["c", "false", 4],
    ]);
    expect(readExamples(join(directory, "a.jsonl"))[0]!.file).toBe(join(directory, "a.jsonl"));
  });

  test("jsonl without labels; null is no label", () => {
    expect(read("a.jsonl", '{"text":"a"}\n{"text":"b","label":null}\n')).toEqual([
      ["a", undefined, 1],
      ["b", undefined, 2],
    ]);
  });

  test("csv: quoted commas and line ends; a row's line is its first", () => {
    expect(read("a.csv", 'label,text\nham,"a, b\nc ""d"""\n\nspam,e\n')).toEqual([
      ['a, b\nc "d"', "ham", 2],
      ["e", "spam", 5],
    ]);
  });

  test("a byte-order mark, CRLF and an extension in capitals", () => {
    expect(read("a.JSONL", '\ufeff{"text":"a"}\r\n{"text":"b"}\r\n')).toEqual([
      ["a", undefined, 1],
      ["b", undefined, 2],
    ]);
    expect(read("a.csv", '\ufefftext, label\r\n"a\r\nb",x\r\nc,y\r\n')).toEqual([
      ["a\nb", "x", 2],
      ["c", "y", 4],
    ]);
    expect(read("a.txt", "\ufeffone\r\ntwo\r\n")).toEqual([["one\ntwo\n", undefined, 1]]);
  });

  test("columns of other names", () => {
    const options = { textColumn: "body", labelColumn: "kind" };
    expect(read("a.csv", "kind,body\nx,a\n", options)).toEqual([["a", "x", 2]]);
    expect(read("a.jsonl", '{"kind":"x","body":"a","text":1}', options)).toEqual([["a", "x", 1]]);
  });
});

describe("what is refused, in these words", () => {
  test("the file itself", () => {
    expect(refusal(() => readExamples(join(directory, "no.jsonl")), directory)).toEqual({
      code: "data-missing",
      message: "…/no.jsonl: there is no such file. Check the path.",
    });
    mkdirSync(join(directory, "none"));
    expect(refusal(() => readExamples(join(directory, "none")), directory)).toEqual({
      code: "data-directory",
      message:
        "…/none: is a directory without data files in it (.jsonl, .csv, .parquet or .txt). Name a data file, or a directory of them.",
    });
    expect(message("a.xml", "x")).toBe(
      'data-extension: …/a.xml: has the extension ".xml", but the format is told by it. Name the file .jsonl, .csv, .parquet or .txt.',
    );
    expect(message("mail", "x")).toBe(
      "data-extension: …/mail: has no extension, but the format is told by it. Name the file .jsonl, .csv, .parquet or .txt.",
    );
    expect(message("under.jsonl", "{}") && refusal(() => readExamples(join(directory, "under.jsonl", "a.jsonl")), directory)).toEqual({
      code: "data-unreadable",
      message: expect.stringMatching(/^…\/under\.jsonl\/a\.jsonl: cannot be read \(ENOTDIR: .*\)\. Check the path and its permissions\.$/),
    });
  });

  test("more than a string can hold", () => {
    const file = write("large.txt", "");
    truncateSync(file, 2 ** 30);
    expect(refusal(() => readExamples(file), directory)).toEqual({
      code: "data-too-large",
      message:
        "…/large.txt: holds 1024 MiB, and at most 512 MiB can be read at once. Split it into smaller files, or have it read piece by piece (--streaming).",
    });
  });

  test("nothing in it", () => {
    for (const name of ["a.jsonl", "a.csv", "a.txt"]) {
      for (const content of ["", "\n \r\n", "\ufeff"]) {
        expect(message(name, content)).toBe(`data-empty: …/${name}: is empty. Give a file with at least one example.`);
      }
    }
    expect(message("a.csv", "text,label\n")).toBe("data-empty: …/a.csv: has a header and no rows. Give a file with at least one example.");
  });

  test("bytes that are not UTF-8", () => {
    expect(message("a.txt", Uint8Array.of(97, 10, 98, 0xe9, 99))).toBe(
      "data-utf8: …/a.txt: is not UTF-8: byte 0xe9 at offset 3 (line 2) fits no character. Save the file as UTF-8.",
    );
    expect(message("a.csv", Uint8Array.of(0xff, 0xfe, 97, 0))).toBe(
      "data-utf8: …/a.csv: is not UTF-8: byte 0xff at offset 0 (line 1) fits no character (it looks like UTF-16). Save the file as UTF-8.",
    );
  });

  test("a broken line 3, and how many others", () => {
    const good = '{"text":"a"}';
    const broken = '{"text":"a"';
    expect(message("a.jsonl", [good, good, broken, good].join("\n"))).toMatch(
      /^data-json: …\/a\.jsonl line 3: is not valid JSON: .*(JSON|position).*\. No other line is broken\.$/,
    );
    expect(message("a.jsonl", [good, good, broken, good, "[]"].join("\n"))).toMatch(
      /^data-json: …\/a\.jsonl line 3: .*\. 1 other line is broken too \(line 5\)\.$/,
    );
    expect(message("a.jsonl", [good, good, ...Array(8).fill(broken)].join("\n"))).toMatch(
      /line 3: .*\. 7 other lines are broken too \(lines 4, 5, 6, 7, 8, …\)\.$/,
    );
  });

  test("lines that hold something else than an object", () => {
    for (const [content, kind] of [
      ["[1]", "a list"],
      ["null", "null"],
      ['"a"', "a string"],
      ["7", "a number"],
    ] as const) {
      expect(message("a.jsonl", content)).toBe(
        `data-record: …/a.jsonl line 1: holds ${kind}; each line must be an object such as {"text": "…"}. No other line is broken.`,
      );
    }
  });

  test("the text", () => {
    expect(message("a.jsonl", '{"txt":"a","label":"b"}')).toBe(
      'data-text: …/a.jsonl line 1: has no "text" (it has "txt", "label"); if the text has another name, give it with the option textColumn. No other line is broken.',
    );
    expect(message("a.jsonl", "{}")).toContain('has no "text" (it is an empty object)');
    for (const [value, kind] of [
      ["null", "null"],
      ["1", "a number"],
      ["[]", "a list"],
      ["{}", "an object"],
    ] as const) {
      expect(message("a.jsonl", `{"text":${value}}`)).toBe(
        `data-text: …/a.jsonl line 1: "text" is ${kind}; it must be a string. No other line is broken.`,
      );
    }
    expect(message("a.csv", "text,label\na,x\n ,y\n")).toBe(
      'data-text: …/a.csv line 3: "text" is empty; remove the line or give it a text. No other line is broken.',
    );
  });

  test("labels", () => {
    expect(message("a.jsonl", '{"text":"a","label":"x"}\n{"text":"b"}\n{"text":"c","label":""}')).toBe(
      "data-labels: …/a.jsonl line 2: has no label, but line 1 has one (2 of 3 examples have none). Label every line or none.",
    );
    expect(message("a.jsonl", '{"text":"a","label":["x"]}')).toBe(
      'data-labels: …/a.jsonl line 1: "label" is a list; it must be a string, a number or a boolean. No other line is broken.',
    );
    expect(message("a.jsonl", '{"text":"a","label":"x"}', { labelColumn: "kind" })).toBe(
      'data-labels: …/a.jsonl: no line has a label "kind". Name the right one with the option labelColumn, or leave the option out.',
    );
  });

  test("csv: columns and rows", () => {
    expect(message("a.csv", "body,kind\na,x\n")).toBe(
      'data-columns: …/a.csv line 1: the header has no column "text"; its columns are "body", "kind". Name the right one with the option textColumn (columns are separated by commas).',
    );
    expect(message("a.csv", "text,kind\na,x\n", { labelColumn: "class" })).toBe(
      'data-columns: …/a.csv line 1: the header has no column "class"; its columns are "text", "kind". Name the right one with the option labelColumn (columns are separated by commas).',
    );
    expect(message("a.csv", "text,text\na,x\n")).toBe(
      'data-columns: …/a.csv line 1: the header names the column "text" twice. Rename one of them.',
    );
    expect(message("a.csv", "text,label\na,x\nb, c,y\nd\n")).toBe(
      "data-csv: …/a.csv line 3: has 3 cells where the header has 2 columns; put cells that hold commas or line ends in quotes. 1 other line is broken too (line 4).",
    );
    const advice = "put cells that hold quotes in quotes, and double the quotes inside";
    const quoting = (content: string) => message("a.csv", `text,label\n${content}`);
    expect(quoting('a,x\nb "c",y\n')).toMatch(
      new RegExp(`^data-csv: …/a\\.csv line 3: is not valid CSV: .*quote.*; ${advice}\\. No other line is broken\\.$`, "i"),
    );
    expect(quoting('a,x\n"b "c" d",y\ne,x\nf\n')).toMatch(
      /^data-csv: …\/a\.csv line 3: .*quote.* What follows line 3 cannot be judged before that line is corrected\.$/i,
    );
    expect(quoting('a,x\nb "c",y\nd\ne,y\n')).toMatch(/line 3: .* 1 other line is broken too \(line 4\)\.$/);
    expect(quoting('a,x\n\n"never closed,y\nd,x\ne,x\n')).toBe(
      `data-csv: …/a.csv line 4: is not valid CSV: a quote that opens in this row is never closed; ${advice}. What follows line 4 cannot be judged before that line is corrected.`,
    );
    expect(message("a.csv", 'te"xt,label\na,x\n')).toMatch(/^data-csv: …\/a\.csv line 1: is not valid CSV: /);
    expect(message("a.csv", '"text,label\na,x\n')).toMatch(/^data-csv: …\/a\.csv line 1: .* never closed; /);
  });

  test("what steers a terminal is not passed on", () => {
    expect(message("a.csv", "a\u001b[2Jb,c\nd,e\n")).toContain('its columns are "a?[2Jb", "c".');
  });
});

describe("several files, compressed files", () => {
  const shards = (name: string, files: Readonly<Record<string, string | Uint8Array>>) => {
    mkdirSync(join(directory, name));
    for (const [file, content] of Object.entries(files)) write(join(name, file), content);
    return join(directory, name);
  };

  test("a directory and a pattern are read in the order of the names; other files are passed over", () => {
    const path = shards("shards", {
      "b.jsonl": '{"text":"2"}',
      "a.jsonl": '{"text":"1"}',
      "c.jsonl.gz": gzipSync('{"text":"3"}'),
      "README.md": "x",
      ".d.jsonl": "{",
    });
    expect(readExamples(path).map(({ text, file }) => [text, basename(file)])).toEqual([
      ["1", "a.jsonl"],
      ["2", "b.jsonl"],
      ["3", "c.jsonl.gz"],
    ]);
    expect(readExamples(join(path, "?.json*")).map(({ text }) => text)).toEqual(["1", "2", "3"]);
    expect(readExamples(join(path, "b*")).map(({ text }) => text)).toEqual(["2"]);
    expect(() => readExamples(join(path, "x*"))).toThrow(/x\*: matches no data file/);
  });

  test("formats do not mix, and labels are everywhere or nowhere", () => {
    const mixed = shards("mixed", { "a.jsonl": '{"text":"1"}', "b.csv": "text\na\n" });
    expect(() => readExamples(mixed)).toThrow(/different formats \(a\.jsonl, b\.csv\)/);
    const half = shards("half", { "a.jsonl": '{"text":"1","label":"x"}', "b.jsonl": '{"text":"2"}' });
    expect(() => readExamples(half)).toThrow(/b\.jsonl line 1: has no label, but .*a\.jsonl line 1 has one/);
  });

  test("what is no gzip file", () => {
    expect(message("broken.csv.gz", "text\na\n")).toMatch(/^data-gzip: ….broken.csv.gz: is no gzip file or is damaged/);
    expect(message("cut.txt.gz", gzipSync("a".repeat(1000)).subarray(0, 20))).toMatch(/^data-gzip/);
  });
});
