import { isUtf8 } from "node:buffer";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, fuzzDirectory, jsonChanges, numRuns, type Outcome, tally, timeout } from "../../tests/fuzz.ts";
import { holdsConversations, readConversations } from "./conversations.ts";
import { readExamples } from "./records.ts";
import { firstInvalidByte } from "./text-file.ts";

const directory = fuzzDirectory();

/** Reads a file of these contents. Examples keep the promises of {@link readExamples}, refusals are short and cannot steer a terminal. */
function read(extension: string, content: string | Uint8Array): void {
  const file = join(directory.path, `fuzz${extension}`);
  writeFileSync(file, content);
  attempt({ names: file, bytes: content.length }, () => {
    let examples: ReturnType<typeof readExamples>;
    try {
      examples = readExamples(file);
    } catch (error) {
      expect((error as Error).message.length).toBeLessThan(10_000);
      expect((error as Error).message).not.toMatch(/\p{Cc}/u);
      throw error;
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
  });
}

/** And as conversations, which the same files may hold. */
function readChats(content: string | Uint8Array): Outcome {
  const file = join(directory.path, "chats.jsonl");
  writeFileSync(file, content);
  return attempt({ names: file, bytes: content.length }, () => {
    holdsConversations(file);
    for (const { messages } of readConversations(file)) expect(messages.length).toBeGreaterThan(0);
  });
}

const extension = fc.constantFrom(".jsonl", ".csv", ".txt");

test("arbitrary bytes", { timeout }, () => {
  fc.assert(fc.property(extension, fc.uint8Array({ maxLength: 200 }), read), { numRuns });
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
    fc.property(extension, fc.boolean(), text, (ext, header, body) => read(ext, header ? `text,label\n${body}` : body)),
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
  fc.assert(fc.property(fc.constant(".jsonl"), text, read), { numRuns });
});

test("any change of a conversation", { timeout }, () => {
  const outcomes = tally();
  const tools = [{ type: "function", function: { name: "f", parameters: { type: "object", properties: {} } } }];
  const lines = [
    {
      messages: [
        { role: "user", content: "a" },
        { role: "assistant", content: [{ type: "text", text: "b" }] },
      ],
      tools,
    },
    {
      conversations: [
        { from: "human", value: "a" },
        { from: "gpt", value: "b" },
      ],
    },
  ].map((line) => JSON.stringify(line));
  fc.assert(
    fc.property(fc.constantFrom(...lines).chain(jsonChanges), fc.constantFrom("", ...lines), (changed, line) => {
      outcomes.count(readChats(Buffer.concat([Buffer.from(`${line}\n`), Buffer.from(changed)])));
    }),
    { numRuns },
  );
  outcomes.expectBoth();
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
