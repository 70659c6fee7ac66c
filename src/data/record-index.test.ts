import { appendFileSync, copyFileSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { attemptAsync, fuzzDirectory, numRuns, timeout } from "../../tests/fuzz.ts";
import { tokenizerFromDirectory } from "../inputs/text/index.ts";
import { classificationBatch } from "./classification-batches.ts";
import { languageBatches } from "./language-batches.ts";
import { type OpenOptions, openConversations, openExamples } from "./record-index.ts";
import { mixedRecords, type RecordSource, recordsOf, shuffledRecords } from "./record-source.ts";
import { readExamples } from "./records.ts";
import { streamedBatches } from "./streamed-batches.ts";
import { encodedRecords } from "./token-cache.ts";

const directory = fuzzDirectory();
const write = (name: string, content: string | Uint8Array) => {
  writeFileSync(join(directory.path, name), content);
  return join(directory.path, name);
};
const all = <R>(source: RecordSource<R>) => Array.from(source.chunkSizes, (_, chunk) => source.chunk(chunk)).flat();
/** Several pieces of 32 KiB each. */
const lines = Array.from({ length: 2000 }, (_, i) => ({ text: `text ${i} é\n${"x".repeat(i % 97)}`, label: i % 2 ? "odd" : "even" }));
const jsonl = `${lines.map((line) => JSON.stringify(line)).join("\n\n")}\n`;
const csv = `text,label\r\n${lines.map(({ text, label }) => `"${text}",${label}`).join("\r\n")}`;
const plain: OpenOptions = { cache: false };

describe("records of files that are not in memory", () => {
  test.each([
    ["a.jsonl", jsonl],
    ["a.csv", csv],
    ["b.jsonl", `\ufeff${jsonl.replaceAll("\n", "\r\n")}`],
  ])("%s: as when it is read at once, places included", async (name, content) => {
    const path = write(name, content);
    const { train, heldOut, labels, close } = await openExamples(path, plain);
    expect(all(train)).toEqual(readExamples(path));
    expect(train.chunkSizes.length).toBeGreaterThan(3);
    expect([train.length, heldOut.length]).toEqual([2000, 0]);
    expect(Object.fromEntries(labels)).toEqual({ even: 1000, odd: 1000 });
    // In any order, the header of a CSV file included.
    const cache = join(directory.path, `cache-${name}`);
    (await openExamples(path, { cache })).close();
    const again = await openExamples(path, { cache });
    expect(again.train.chunk(2)[0]).toEqual(train.chunk(2)[0]);
    again.close();
    close();
  });

  test("parquet, conversations, shards", async () => {
    const parquet = "tests/fixtures/parquet/snappy.parquet";
    const opened = await openExamples(parquet, { ...plain, labelColumn: "count" });
    expect(Array.from(opened.train.chunkSizes)).toEqual([4, 4, 2]);
    expect(all(opened.train).map(({ text, label, line }) => [text, label, line])).toEqual(
      readExamples(parquet, { labelColumn: "count" }).map(({ text, label, line }) => [text, label, line]),
    );
    opened.close();
    const chats = await openConversations("tests/fixtures/parquet/chats.parquet", plain);
    expect(all(chats.train).map(({ messages }) => messages.length)).toEqual([2, 3, 2]);
    chats.close();
    mkdirSync(join(directory.path, "shards"));
    for (const name of ["1", "2"]) write(`shards/${name}.jsonl`, `{"text":"${name}"}`);
    const shards = await openExamples(join(directory.path, "shards"), plain);
    expect(all(shards.train).map(({ text }) => text)).toEqual(["1", "2"]);
    shards.close();
  });

  test("held out by content: the share, apart, equal texts together", async () => {
    const texts = Array.from({ length: 4000 }, (_, i) => ({ text: i % 4 ? `text ${i}` : `Text  ${i + 1}` }));
    const path = write("held.jsonl", texts.map((line) => JSON.stringify(line)).join("\n"));
    const { train, heldOut, close } = await openExamples(path, { ...plain, heldOut: 0.25, seed: 3 });
    const [a, b] = [all(train), all(heldOut)].map((part) => part.map(({ text }) => text.toLowerCase().replace(/\s+/g, " ")));
    expect(a!.length + b!.length).toBe(4000);
    expect(Math.abs(b!.length - 1000)).toBeLessThan(150);
    expect(a!.filter((text) => b!.includes(text))).toEqual([]);
    close();
  });

  test("the index is kept, and made anew for another file or a damaged index", async () => {
    const path = write("kept.jsonl", jsonl);
    const cache = join(directory.path, "kept");
    const notices: string[] = [];
    let scans = 0;
    const open = async () => {
      const opened = await openExamples(path, {
        cache,
        onNotice: (m) => notices.push(m),
        onProgress: (done, of) => (scans += Number(done === of)),
      });
      opened.close();
      return opened.train.length;
    };
    expect([await open(), await open(), scans]).toEqual([2000, 2000, 1]);
    const [name] = readdirSync(cache) as [string];
    writeFileSync(join(cache, name), readFileSync(join(cache, name), "utf8").replace("32", "33"));
    expect([await open(), scans]).toEqual([2000, 2]);
    expect(notices).toEqual([expect.stringMatching(/index: is damaged/)]);
    appendFileSync(path, '{"text":"more","label":"odd"}');
    expect([await open(), scans]).toEqual([2001, 3]);
  });
});

describe("what is refused", () => {
  test.each([
    [
      "broken.jsonl",
      jsonl.replace('{"text":"text 1500', '{"text:"text 1500'),
      /broken\.jsonl line 3001: is not valid JSON.*What follows line 3001/,
    ],
    ["half.jsonl", jsonl.replace(/,"label":"odd"\}\n$/, "}\n"), /half\.jsonl: 1 of 2000 examples have no label/],
    ["bytes.jsonl", Buffer.concat([Buffer.from(jsonl), Buffer.from([0xff, 0x0a])]), /byte 0xff at offset \d+/],
    ["empty.jsonl", "\n\n", /is empty/],
    ["cells.csv", `${csv}\na,b,c\n`, /cells\.csv line 4002: has 3 cells where the header has 2/],
    ["a.jsonl.gz", "x", /a compressed file cannot be read as a stream/],
    ["none.csv", "", /is empty/],
  ])("%s", async (name, content, message) => {
    await expect(openExamples(write(name, content), plain)).rejects.toThrow(message);
  });

  test("a file that changes while it is read", async () => {
    const path = write("changing.jsonl", jsonl);
    const { train, close } = await openExamples(path, plain);
    train.chunk(0);
    utimesSync(path, new Date(), new Date(Date.now() + 5000));
    expect(() => train.chunk(1)).toThrow(/changing\.jsonl: was changed while it was in use/);
    close();
  });

  test("pieces of the formats in any order", { timeout }, async () => {
    const piece = fc.constantFrom(
      '"',
      ",",
      "\n",
      "\r\n",
      "text,label\n",
      '{"text":"a"}\n',
      '{"text":"a","label":1}\n',
      "{",
      "é",
      "\u0000",
      "\ufeff",
      "\u001b",
    );
    const content = fc.oneof(
      fc.array(piece, { maxLength: 20 }).map((pieces) => Buffer.from(pieces.join(""))),
      fc.uint8Array({ maxLength: 100 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(".jsonl", ".csv", ".txt"), content, async (extension, bytes) => {
        const path = write(`fuzz${extension}`, bytes);
        // Hashing a file takes a buffer of 1 MiB each time.
        await attemptAsync({ names: path, bytes: bytes.length, buffers: 2 ** 24 }, async () => (await openExamples(path, plain)).close());
      }),
      { numRuns },
    );
  });
});

describe("in the order of training", () => {
  test("a stream: every epoch holds every record once, in windows, the same wherever one begins", async () => {
    const path = write("stream.jsonl", jsonl);
    const { train, close } = await openExamples(path, plain);
    const epoch = (n: number, stream = shuffledRecords(train, { seed: 1, window: 600 })) =>
      Array.from({ length: 2000 }, (_, i) => stream.at(n * 2000 + i).text);
    expect([...epoch(0)].sort()).toEqual(lines.map(({ text }) => text).sort());
    expect(epoch(1)).not.toEqual(epoch(0));
    const later = shuffledRecords(train, { seed: 1, window: 600 });
    expect(later.at(3123).text).toBe(epoch(1)[1123]);
    close();
  });

  test("a window reads each chunk once", () => {
    const reads: number[] = [];
    const source = {
      length: 1000,
      chunkSizes: Array(100).fill(10),
      chunk(c: number) {
        reads.push(c);
        return Array.from({ length: 10 }, (_, i) => c * 10 + i);
      },
    };
    const stream = shuffledRecords(source, { window: 100 });
    for (let i = 0; i < 1000; i++) stream.at(i);
    expect(reads.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  test("mixed streams draw by their weights", () => {
    const [a, b] = ["a", "b"].map((name) => shuffledRecords(recordsOf(Array.from({ length: 100 }, (_, i) => `${name}${i}`))));
    const mixed = mixedRecords({ a: { stream: a!, weight: 3 }, b: { stream: b! } });
    expect(mixed.perEpoch).toBe(400);
    const first = Array.from({ length: 400 }, (_, i) => mixed.at(i));
    expect(new Set(first.filter((x) => x[0] === "b")).size).toBe(100);
    expect(Math.abs(first.filter((x) => x[0] === "a").length - 300)).toBeLessThan(3);
  });

  // In random batches of four most would be 64 long, and half of their places empty.
  test("batches: like lengths together, few shapes, a function of the step", async () => {
    const records = Array.from({ length: 500 }, (_, i) => ({ text: "x".repeat(1 + ((i * 37) % 64)), i }));
    const make = () =>
      streamedBatches(shuffledRecords(recordsOf(records)), {
        batchSize: 4,
        buckets: [16, 32, 64],
        size: ({ text }) => text.length,
        encode: ({ text, i }) => ({ ids: Array.from(text, () => 7), label: i, description: `n${i}` }),
        assemble: (examples, length) => classificationBatch(examples, { rows: 4, length, padId: 0 }),
      });
    const source = make();
    const batches = Array.from({ length: 128 }, (_, step) => source.batch(step));
    const places = batches.reduce((n, { feeds }) => n + feeds.ids!.data.length, 0);
    expect(batches.reduce((n, { tokens }) => n + tokens, 0) / places).toBeGreaterThan(0.7);
    expect(new Set(batches.flatMap(({ description }) => description.split(", "))).size).toBe(500);
    expect(make().batch(77)).toEqual(batches[77]);
  });

  test("texts for language modelling: encoded once, joined, and read from the file", async () => {
    const tokenizer = await tokenizerFromDirectory("models/sapling");
    const path = write("lm.jsonl", '{"text":"One text."}\n{"text":"Another."}');
    const cache = join(directory.path, "lm");
    const { train, close } = await openExamples(path, { cache });
    const expected = ["One text.", "Another."].flatMap((text) => [
      ...tokenizer.encode(text, { addSpecialTokens: false }),
      ...(tokenizer.eosId === undefined ? [] : [tokenizer.eosId]),
    ]);
    let encodings = 0;
    for (const _ of [1, 2]) {
      const table = await encodedRecords(tokenizer, train, { cache, onProgress: () => encodings++ });
      expect(Array.from(table.subarray(0, table.length))).toEqual(expected);
      const batch = languageBatches(table, { batchSize: 1, sequenceLength: 4, shuffle: false }).batch(0);
      expect(Array.from(batch.feeds.targets!.data, Number)).toEqual(expected.slice(1, 5));
      table.close();
    }
    expect(encodings).toBe(1);
    close();
    // A long text, cut into pieces, has no end within.
    const long = write("long.txt", "A line of text.\n".repeat(5000));
    copyFileSync(long, join(directory.path, "long2.txt"));
    const texts = await openExamples(join(directory.path, "long*.txt"), plain);
    const table = await encodedRecords(tokenizer, texts.train, plain);
    if (tokenizer.eosId !== undefined)
      expect(Array.from(table.subarray(0, table.length)).filter((id) => id === tokenizer.eosId)).toHaveLength(2);
    expect(texts.train.length).toBeGreaterThan(4);
    table.close();
    texts.close();
  });
});
