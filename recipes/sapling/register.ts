/**
 * Writes the text of another register that an example adapts `sapling` to: `npx tsx recipes/sapling/register.ts`.
 *
 * The King James Version is kept wholly out of pre-training. Its Debian package stores 64 kB windows, each packed by the Unix `compress`
 * of its time; `gzip` still reads that format. Three gospels, Genesis, Exodus, Job, Psalms, Proverbs and the Acts are exported.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EspalierError } from "../../src/graph/errors.ts";
import { openPackage } from "./archives.ts";
import { register } from "./sources.ts";

/** As the package abbreviates them. */
const books: readonly [string, string][] = [
  ["Ge", "Genesis"],
  ["Exo", "Exodus"],
  ["Job", "Job"],
  ["Psa", "The Psalms"],
  ["Prv", "The Proverbs"],
  ["Mat", "Matthew"],
  ["Luke", "Luke"],
  ["John", "John"],
  ["Acts", "The Acts of the Apostles"],
];

/** Byte 0x5c on: offsets of the windows; the entry before it is their number. Each window lacks `compress`'s three magic bytes. */
const countAt = 0x54;
const magic = Buffer.from([0x1f, 0x9d, 0x90]);

const { root } = openPackage(register, join(".cache", "sapling"));
const data = readFileSync(join(root, "usr", "lib", "bible.data"));
const windows = data.readUInt32BE(countAt + 4);
const parts: Buffer[] = [];
for (let i = 0; i < windows; i++) {
  const from = data.readUInt32BE(countAt + 8 + 4 * i);
  const to = i + 1 < windows ? data.readUInt32BE(countAt + 12 + 4 * i) : data.length;
  parts.push(execFileSync("gzip", ["-dc"], { input: Buffer.concat([magic, data.subarray(from, to)]), maxBuffer: 1 << 20 }));
}
const text = Buffer.concat(parts).toString("latin1");

const chapters = new Map<string, string[]>();
for (const line of text.split("\n")) {
  const verse = /^(\d?[A-Za-z]+)(\d+):(\d+) (.*)$/.exec(line);
  if (!verse) continue;
  const key = `${verse[1]} ${verse[2]}`;
  // A verse a line would teach the adapter line breaks; a chapter is a paragraph, with the pilcrow's breaks unknown to this edition.
  const body = verse[4]!
    .replace(/\s+/g, " ")
    .replace(/[{}[\]]/g, "")
    .trim();
  chapters.set(key, [...(chapters.get(key) ?? []), body]);
}
const written: string[] = [];
for (const [short, title] of books) {
  const own = [...chapters].filter(([key]) => key.split(" ")[0] === short);
  if (own.length === 0) {
    const names = [...new Set([...chapters.keys()].map((key) => key.split(" ")[0]))].join(" ");
    throw new EspalierError("register-book", `The package has no book "${short}". It names its books: ${names}`);
  }
  written.push(title, ...own.map(([, verses]) => verses.join(" ")));
}
const folder = join("examples", "register");
mkdirSync(folder, { recursive: true });
const result = `${written.join("\n\n")}\n`;
writeFileSync(join(folder, "king-james.txt"), result);
console.log(JSON.stringify({ file: join(folder, "king-james.txt"), bytes: Buffer.byteLength(result), chapters: chapters.size }));
