import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { cachedDuplicateGroups } from "./duplicate-cache.ts";
import { nearDuplicateGroups } from "./near-duplicates.ts";

const texts = Array.from({ length: 300 }, (_, i) => {
  const text = `letter ${i % 200} of some other kind `.repeat(150);
  return i < 200 ? text : text.toUpperCase();
});

test("groups are searched once, then read; a damaged file is told of and made again; small data leave no file", () => {
  const cache = mkdtempSync(join(tmpdir(), "espalier-groups-"));
  onTestFinished(() => rmSync(cache, { recursive: true }));
  const notices: string[] = [];
  let searched = 0;
  const find = (given = texts) => {
    searched = 0;
    return cachedDuplicateGroups(given, { cache, onNotice: (message) => notices.push(message), onProgress: () => searched++ });
  };
  const expected = nearDuplicateGroups(texts);
  expect(new Set(expected).size).toBeLessThan(300);
  expect(find()).toEqual(expected);
  expect(searched).toBeGreaterThan(0);
  expect(find()).toEqual(expected);
  expect(searched).toBe(0);

  const [name] = readdirSync(cache) as [string];
  const bytes = readFileSync(join(cache, name));
  bytes[40]! ^= 1;
  writeFileSync(join(cache, name), bytes);
  expect(find()).toEqual(expected);
  expect(searched).toBeGreaterThan(0);
  expect(notices).toEqual([expect.stringContaining("is damaged. It is made again.")]);

  find(texts.slice(0, 5));
  find([...texts.slice(1), "another"]);
  expect(readdirSync(cache)).toHaveLength(2);
});
