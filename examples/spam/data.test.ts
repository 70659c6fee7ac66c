import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { messageText } from "../../src/inputs/email/message.ts";
import { withoutCollector } from "./collector.ts";
import { prepareSpamData, readSpamExamples, type SpamCounts, type SpamExample, splitTable } from "./data.ts";

const here = (name: string) => new URL(name, import.meta.url);

describe("the split", () => {
  let directory: string;
  let counts: SpamCounts;
  let train: SpamExample[];
  let heldOut: SpamExample[];
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "espalier-spam-"));
    const built = await prepareSpamData(directory);
    counts = built.counts;
    train = await readSpamExamples(built.train);
    heldOut = await readSpamExamples(built.heldOut);
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  test("README shows the table that the data gives", () => {
    const cells = (line: string) =>
      line
        .split("|")
        .map((cell) => cell.trim())
        .join("|");
    const shown = readFileSync(here("README.md"), "utf8").split("\n").map(cells);
    const [header, , ...rows] = splitTable(counts).split("\n");
    for (const line of [header!, ...rows]) expect(shown).toContain(cells(line));
  });

  test("every group, the hard ham too, is held out in proportion to its mailings", () => {
    for (const [group, held] of Object.entries(counts.heldOut.groups)) {
      const share = held / (held + counts.train.groups[group]!);
      // Only the first mail of a held-out mailing is measured, so the share of mails lies below the share of mailings.
      expect(share, group).toBeGreaterThan(0.1);
      expect(share, group).toBeLessThan(0.21);
    }
  });

  test("no mail of one part shares half of its word sequences with a mail of the other, counted over all pairs", () => {
    // On purpose without src/data: its own approximate search is what is being checked.
    const numbers = new Map<string, number>();
    const sequences = ({ text }: SpamExample) => {
      const words =
        text
          .slice(text.indexOf("\n\n") + 2)
          .toLowerCase()
          .match(/[\p{L}\p{N}\p{M}]+/gu) ?? [];
      const size = Math.min(5, words.length);
      const found = new Set<number>();
      for (let i = 0; size > 0 && i + size <= words.length; i++) {
        const key = words.slice(i, i + size).join(" ");
        if (!numbers.has(key)) numbers.set(key, numbers.size);
        found.add(numbers.get(key)!);
      }
      return found;
    };
    const trained = train.map(sequences);
    const holders = new Map<number, number[]>();
    for (const [i, set] of trained.entries())
      for (const n of set) {
        const list = holders.get(n);
        if (list) list.push(i);
        else holders.set(n, [i]);
      }
    let nearest = 0;
    for (const mail of heldOut) {
      const set = sequences(mail);
      const shared = new Map<number, number>();
      for (const n of set) for (const i of holders.get(n) ?? []) shared.set(i, (shared.get(i) ?? 0) + 1);
      for (const [i, count] of shared) nearest = Math.max(nearest, count / (set.size + trained[i]!.size - count));
    }
    expect(nearest).toBeLessThan(0.5);
    expect(nearest).toBeGreaterThan(0.2);
  });

  test("nothing of the collector is left", () => {
    for (const { text } of [...train, ...heldOut]) expect(text).not.toMatch(/taint\.org|netnoteinc\.com|jmason\.org|\bz{4,}/i);
  });

  test("a second build finds the first", async () => {
    const started = performance.now();
    expect((await prepareSpamData(directory)).counts).toEqual(counts);
    expect(performance.now() - started).toBeLessThan(3000);
  });
});

test("the sample mails read as the corpus's mails do, and the command needs no more than messageText", async () => {
  for (const [file, opening] of [
    ["sample-ham.eml", "From: Marta Lindqvist example.org\nSubject: Re: Saturday's pruning and the broken build\n\nOn Tue, Mar 04"],
    [
      "sample-spam.eml",
      "From: Winning Department example.org\nSubject: CONGRATULATIONS!!! Your $5,000 cash prize is waiting - act NOW\n\nYou have",
    ],
  ] as const) {
    const text = await messageText(readFileSync(here(file)));
    expect(text.slice(0, opening.length)).toBe(opening);
    expect(withoutCollector(text)).toBe(text);
    expect(text).not.toMatch(/[<>]br|href|bgcolor/);
  }
});
