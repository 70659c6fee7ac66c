import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { HostTensor } from "../runtime/index.ts";
import { conversationBatches, conversationExamples } from "./conversation-batches.ts";
import { holdsConversations, readConversations } from "./conversations.ts";
import { splitExamples } from "./split.ts";

const directory = mkdtempSync(join(tmpdir(), "espalier-conversations-"));
function file(lines: readonly (object | string)[], name = "chat.jsonl"): string {
  const path = join(directory, name);
  writeFileSync(path, lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n"));
  return path;
}
const ask = { role: "user", content: "how?" };
const answer = { role: "assistant", content: "so." };

describe("readConversations", () => {
  test("messages, with tools, and ShareGPT's speakers", () => {
    const path = file([
      { messages: [ask, answer], tools: [{ type: "function" }] },
      "",
      {
        conversations: [
          { from: "human", value: "how?" },
          { from: "gpt", value: "so.", weight: 1 },
        ],
        system: "be brief",
      },
    ]);
    expect(holdsConversations(path)).toBe(true);
    expect(readConversations(path)).toEqual([
      { messages: [ask, answer], tools: [{ type: "function" }], text: "user: how?\nassistant: so.", file: path, line: 1 },
      {
        messages: [{ role: "system", content: "be brief" }, ask, { ...answer, weight: 1 }],
        text: "user: how?\nassistant: so.",
        file: path,
        line: 3,
      },
    ]);
  });

  test("splits like other examples, and keeps what they are", () => {
    const path = file(
      Array.from({ length: 10 }, (_, i) => ({ messages: [{ role: "user", content: `question ${"abcdefghij"[i]!.repeat(9)}` }, answer] })),
    );
    const conversations = readConversations(path);
    const { train, heldOut } = splitExamples([...conversations, conversations[0]!]);
    expect([train.length, heldOut.length]).toEqual([8, 2]);
    expect([...train, ...heldOut].sort((a, b) => a.line - b.line)).toEqual(conversations);
  });

  test.each([
    [[{ messages: [ask] }], /line 1: the assistant says nothing in it/],
    [
      [{ messages: [ask, answer] }, { text: "a" }, { text: "b" }],
      /line 2: has no list "messages" or "conversations".* 1 other line is broken too \(line 3\)/,
    ],
    [[{ messages: [ask, { role: "robot", content: "a" }] }], /line 1: message 2, role: /],
    [[{ messages: [ask, { role: "assistant", content: " " }] }], /line 1: message 2: its content is empty/],
    [[{ messages: [ask, { role: "assistant", content: 7 }] }], /line 1: message 2, content: must be a string or a list of parts/],
    [[{ messages: [ask, answer], tools: "none" }], /line 1: "tools" must be a list of objects/],
    [[{ conversations: [{ from: "someone", value: "a" }] }], /line 1: message 1: "from" is "someone"; the speakers are system, human, /],
    [["{"], /line 1: is not valid JSON/],
    [["[]"], /line 1: holds a list/],
    [["  "], /is empty/],
  ])("refuses %j", (lines, message) => {
    const path = file(lines as string[]);
    expect(() => readConversations(path)).toThrow(message);
  });

  test("other data is not taken for conversations", () => {
    expect(holdsConversations(file([{ text: "a" }]))).toBe(false);
    expect(holdsConversations(file(["{"]))).toBe(false);
    expect(holdsConversations(file(["a"], "a.txt"))).toBe(false);
    expect(() => readConversations(file(["a"], "a.txt"))).toThrow(/conversations are read from \.jsonl and \.parquet files/);
  });
});

const plain = (tensor: HostTensor | undefined) => Array.from(tensor!.data as BigInt64Array, Number);
const T = true;
const F = false;

describe("conversation batches", () => {
  const encoded = [
    { ids: [1, 2, 3, 4], assistant: [F, F, T, T], description: "a:1" },
    { ids: [1, 5, 1, 6, 7, 8], assistant: [F, T, F, F, F, T], description: "a:2" },
    { ids: [1, 2, 3, 4, 5, 6], assistant: [F, F, F, F, F, T], description: "a:3" },
    { ids: [9], assistant: [T], description: "a:4" },
  ];

  test("targets are the assistant's tokens; what is cut and dropped is counted", () => {
    const { examples, truncation, withoutTarget } = conversationExamples(encoded, 3);
    expect(examples).toEqual([
      { ids: [1, 2, 3], targets: [-100, 3, 4], description: "a:1" },
      { ids: [1, 5, 1], targets: [5, -100, -100], description: "a:2" },
    ]);
    expect([truncation, withoutTarget]).toEqual([{ count: 2, of: 4, longest: 5, limit: 3 }, 2]);
    expect(() => conversationExamples(encoded, 0)).toThrow(/at least 1, not 0/);
  });

  test("rows are padded on the right without targets", () => {
    const { examples } = conversationExamples(encoded, 8);
    const source = conversationBatches(examples, { batchSize: 2, padId: 0, buckets: [4, 8], shuffle: false });
    expect(source.batchesPerEpoch).toBe(2);
    const [first, second] = [source.batch(0), source.batch(1)];
    expect([plain(first.feeds.ids), plain(first.feeds.targets)]).toEqual([
      [1, 2, 3, 0, 0, 0, 0, 0],
      [-100, 3, 4, -100, -100, -100, -100, -100],
    ]);
    expect([first.feeds.ids!.shape, first.tokens, first.examples, first.description]).toEqual([[2, 4], 3, 1, "a:1"]);
    expect(plain(second.feeds.targets)).toEqual([5, -100, -100, -100, 8, -100, -100, -100, -100, -100, -100, -100, 6, -100, -100, -100]);
    expect([second.feeds.ids!.shape, second.tokens, second.description]).toEqual([[2, 8], 10, "a:2, a:3"]);
  });

  test("the order is a function of seed and step", () => {
    const many = Array.from({ length: 40 }, (_, i) => ({ ids: [i, 1], targets: [-100, 1], description: `${i}` }));
    const options = { batchSize: 4, padId: 0, buckets: [2], seed: 3 };
    const said = (seed: number, step: number) => conversationBatches(many, { ...options, seed }).batch(step).description;
    expect(said(3, 13)).toBe(said(3, 13));
    expect(said(3, 13)).not.toBe(said(4, 13));
    const source = conversationBatches(many, options);
    const epoch = (n: number) => Array.from({ length: 10 }, (_, i) => source.batch(10 * n + i).description.split(", ")).flat();
    expect([...epoch(0)].sort()).toEqual(many.map((e) => e.description).sort());
    expect(epoch(1)).not.toEqual(epoch(0));
    expect(() => conversationBatches(many, { ...options, buckets: [1] })).toThrow(/0: has 2 tokens, and the largest bucket holds 1/);
    expect(() => conversationBatches([], options)).toThrow(/no examples/);
  });
});
