import { isUtf8 } from "node:buffer";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { EspalierError } from "../graph/errors.ts";
import { readExamples } from "./records.ts";
import { firstInvalidByte } from "./text-file.ts";

/** ESPALIER_FUZZ=10000 for the long run. */
const numRuns = Number(process.env.ESPALIER_FUZZ ?? 500);
const timeout = 60_000 + numRuns * 20;

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-records-fuzz-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

/** Either a refusal that names the file, or examples that keep the promises of {@link readExamples}. */
function readOrRefuse(extension: string, content: string | Uint8Array): void {
  const file = join(directory, `fuzz${extension}`);
  writeFileSync(file, content);
  let examples: ReturnType<typeof readExamples>;
  try {
    examples = readExamples(file);
  } catch (error) {
    if (!(error instanceof EspalierError)) throw error;
    expect(error.message).toContain(file);
    expect(error.message.length).toBeLessThan(10_000);
    expect(error.message).not.toMatch(/\p{Cc}/u);
    return;
  }
  expect(examples.length).toBeGreaterThan(0);
  const labelled = examples.filter((example) => example.label !== undefined).length;
  expect([0, examples.length]).toContain(labelled);
  let line = 0;
  for (const example of examples) {
    expect(typeof example.text === "string" && example.text.trim() !== "").toBe(true);
    expect(example.label === undefined || typeof example.label === "string").toBe(true);
    expect(example.line).toBeGreaterThan(line);
    line = example.line;
  }
}

const extension = fc.constantFrom(".jsonl", ".csv", ".txt");

test("arbitrary bytes", { timeout }, () => {
  fc.assert(fc.property(extension, fc.uint8Array({ maxLength: 200 }), readOrRefuse), { numRuns });
});

test("pieces of the formats in any order", { timeout }, () => {
  const piece = fc.constantFrom(
    ...['"', ",", "\n", "\r", "\r\n", "text", "label", "text,label\n", "{", "}", ":", '"text":', '"label":', '{"text":"a"}', "null"],
    ...[
      '{"text":"a","label":1}\n',
      "[",
      "]",
      " ",
      "\\",
      "\ufeff",
      "\u0000",
      "\u2028",
      "\u001b",
      "é",
      "😀",
      "__proto__",
      "1e999",
      "true",
      ";",
    ],
  );
  const text = fc.array(piece, { maxLength: 30 }).map((pieces) => pieces.join(""));
  fc.assert(
    fc.property(extension, fc.boolean(), text, (ext, header, body) => readOrRefuse(ext, header ? `text,label\n${body}` : body)),
    {
      numRuns,
    },
  );
});

test("objects of any kind", { timeout }, () => {
  const record = fc.record({ text: fc.anything(), label: fc.anything() }, { requiredKeys: [] });
  const lines = fc.array(fc.oneof(record, fc.jsonValue(), fc.record({ text: fc.string(), label: fc.string() })), { maxLength: 5 });
  const text = lines.map((values) =>
    values.map((value) => JSON.stringify(value, (_, v) => (typeof v === "bigint" ? Number(v) : v)) ?? "").join("\n"),
  );
  fc.assert(fc.property(fc.constant(".jsonl"), text, readOrRefuse), { numRuns });
});

test("UTF-8 is judged as Node judges it", { timeout }, () => {
  const edge = fc.constantFrom(0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff);
  const bytes = fc.array(edge, { maxLength: 6 }).map((values) => Uint8Array.from(values));
  fc.assert(
    fc.property(
      fc.oneof(
        bytes,
        fc.string({ unit: "binary" }).map((s) => new TextEncoder().encode(s)),
      ),
      (value) => {
        const offset = firstInvalidByte(value);
        expect(offset < 0).toBe(isUtf8(value));
        if (offset >= 0) expect(isUtf8(value.subarray(0, offset))).toBe(true);
      },
    ),
    { numRuns: numRuns * 4 },
  );
});
