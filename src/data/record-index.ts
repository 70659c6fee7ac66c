import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import { type FileHash, hashFile, writeFileAtomically } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/errors.ts";
import { type CacheOptions, contentKey, prepareCache } from "./cache-directory.ts";
import { type Conversation, conversationColumns, conversationLike, conversationsOf, refuseOtherFormats } from "./conversations.ts";
import { dataFiles } from "./data-files.ts";
import { type Example, exampleColumns, examplesOf, type ReadOptions } from "./examples.ts";
import { type Problem, refuseProblems } from "./json-lines.ts";
import { type Piece, RecordFile } from "./record-file.ts";
import type { RecordSource } from "./record-source.ts";
import type { Rows } from "./rows.ts";

export interface OpenOptions extends CacheOptions {
  /**
   * Share of the records that is held out, in [0, 1): 0 unless told. Which ones is decided by a hash of each text, so that equal texts (but for case and
   * blanks) stay together. Near-duplicates, which {@link splitExamples} finds, may fall apart: give a file of its own where that matters.
   */
  heldOut?: number;
  seed?: number;
  /** Is told how many bytes have been looked through. */
  onProgress?: (done: number, of: number) => void;
  signal?: AbortSignal;
}

/** Records of files that are not in memory. */
export interface OpenRecords<R> {
  readonly train: RecordSource<R>;
  readonly heldOut: RecordSource<R>;
  /** How many examples have each label; empty where they have none. */
  readonly labels: ReadonlyMap<string, number>;
  /** The files that they are read from, by their whole paths. */
  readonly files: ReadonlyMap<string, FileHash>;
  close(): void;
}

/**
 * Opens the examples of a file, directory or pattern for reading piece by piece. Every record is looked at once, so that what is broken is known before
 * training, and their places are kept in the cache: the second time takes a moment. A piece of a .txt file, cut at a line end, is one example.
 * @throws EspalierError what {@link readExamples} throws, of the first broken record; `data-changed` where a file is changed while it is open
 */
export const openExamples = (path: string, options: ReadOptions & OpenOptions = {}): Promise<OpenRecords<Example>> =>
  open(path, options, {
    name: JSON.stringify(["examples", options.textColumn, options.labelColumn]),
    like: '{"text": "…"}',
    wanted: exampleColumns(options),
    read(rows, file) {
      const { examples, problems } = examplesOf(rows, file, options);
      return { records: examples, problems };
    },
  });

/** {@link openExamples} for what {@link readConversations} reads. */
export const openConversations = (path: string, options: OpenOptions = {}): Promise<OpenRecords<Conversation>> =>
  open(path, options, {
    name: "conversations",
    like: conversationLike,
    wanted: conversationColumns,
    read(rows, file) {
      refuseOtherFormats(file);
      const { conversations, problems } = conversationsOf(rows, file);
      return { records: conversations, problems };
    },
  });

interface Kind<R> {
  name: string;
  like: string;
  wanted: readonly string[];
  read(rows: Rows, file: string): { records: R[]; problems: Problem[] };
}

/** What is known of a file. Pieces as lists of numbers, so that millions of records take little room. */
interface FileIndex {
  sha256: string;
  pieces: number[];
  /** Records of each piece. */
  counts: number[];
  /** Of each piece's records, those held out. */
  heldOut: number[];
  /** A bit for each record. */
  heldOutBits: string;
  labels: [string, number][];
}

const version = "1";

async function open<R extends Example>(path: string, options: OpenOptions, kind: Kind<R>): Promise<OpenRecords<R>> {
  const { heldOut = 0 } = options;
  if (!(heldOut >= 0 && heldOut < 1))
    throw new EspalierError(
      "data-split",
      `The held-out share is a number from 0 to below 1, not ${heldOut}. 0.01 holds out every hundredth record.`,
    );
  const files: RecordFile[] = [];
  try {
    for (const file of dataFiles(path)) files.push(new RecordFile(resolve(file), kind));
    const total = files.reduce((sum, file) => sum + file.size, 0);
    const indices: FileIndex[] = [];
    let done = 0;
    for (const file of files) {
      indices.push(await indexOf(file, kind, options, (bytes) => options.onProgress?.(done + bytes, total)));
      done += file.size;
    }
    const labels = new Map<string, number>();
    for (const [label, count] of indices.flatMap((index) => index.labels)) labels.set(label, (labels.get(label) ?? 0) + count);
    refuseOddCounts(path, indices, labels);
    const close = () => {
      for (const file of files) file.close();
    };
    const part = (held: boolean) => new IndexedRecords(files, indices, kind, held, options);
    const hashes = new Map(files.map(({ file, size }, i) => [file, { sha256: indices[i]!.sha256, bytes: size }]));
    return { train: part(false), heldOut: part(true), labels, files: hashes, close };
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

function refuseOddCounts(path: string, indices: readonly FileIndex[], labels: ReadonlyMap<string, number>): void {
  const records = indices.reduce((sum, { counts }) => sum + counts.reduce((a, b) => a + b, 0), 0);
  if (records === 0) throw new EspalierError("data-empty", `${path}: is empty. Give a file with at least one example.`);
  const labelled = [...labels.values()].reduce((a, b) => a + b, 0);
  if (labelled > 0 && labelled < records)
    throw new EspalierError(
      "data-labels",
      `${path}: ${records - labelled} of ${records} examples have no label. Label every line or none.`,
    );
}

async function indexOf<R extends Example>(
  file: RecordFile,
  kind: Kind<R>,
  options: OpenOptions,
  onBytes: (done: number) => void,
): Promise<FileIndex> {
  const { heldOut = 0, seed = 0 } = options;
  const directory = prepareCache(options);
  // The place and time of a file stand for its contents, as they do for make and git.
  const key = contentKey("index", version, kind.name, file.file, `${file.size} ${file.modified} ${heldOut} ${seed}`);
  const path = directory && join(directory, `${key}.index`);
  const known = path && readIndex(path, key, options);
  if (known) return known;
  const index: FileIndex = { sha256: "", pieces: [], counts: [], heldOut: [], heldOutBits: "", labels: [] };
  const labels = new Map<string, number>();
  const bits: number[] = [];
  let [records, yielded] = [0, performance.now()];
  for (const { piece, rows } of file.pieces()) {
    const found = kind.read(rows, file.file);
    const [problem] = [...rows.problems, ...found.problems].sort((a, b) => a.line - b.line);
    // Nobody has looked at what follows.
    if (problem) refuseProblems(file.file, [{ ...problem, hidesRest: true }]);
    let held = 0;
    for (const record of found.records) {
      if (records % 8 === 0) bits.push(0);
      if (isHeldOut(record.text, heldOut, seed)) {
        bits[bits.length - 1]! |= 1 << (records % 8);
        held++;
      }
      records++;
      if (record.label !== undefined) labels.set(record.label, (labels.get(record.label) ?? 0) + 1);
    }
    index.pieces.push(piece.offset, piece.length, piece.line);
    index.counts.push(found.records.length);
    index.heldOut.push(held);
    // Ctrl-C and progress are seen to now and then.
    if (performance.now() - yielded > 50) {
      onBytes(file.format === ".parquet" ? file.size * (piece.offset / Math.max(1, index.counts.length)) : piece.offset + piece.length);
      await setImmediate();
      options.signal?.throwIfAborted();
      yielded = performance.now();
    }
  }
  onBytes(file.size);
  index.sha256 = hashFile(file.file).sha256;
  index.heldOutBits = Buffer.from(bits).toString("base64");
  index.labels = [...labels];
  if (path) {
    const body = JSON.stringify(index);
    writeFileAtomically(path, (append) => append(Buffer.from(JSON.stringify({ key, sum: checksum(body), body }))));
  }
  return index;
}

const checksum = (text: string): string => createHash("sha256").update(text).digest("hex");

function readIndex(path: string, key: string, { onNotice }: OpenOptions): FileIndex | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return undefined; // not there yet
  }
  try {
    const outer = JSON.parse(text) as { key: string; sum: string; body: string };
    if (outer.key === key && checksum(outer.body) === outer.sum) return JSON.parse(outer.body) as FileIndex;
  } catch {
    // Told below.
  }
  onNotice?.(`${path}: is damaged. It is made again.`);
  return undefined;
}

/** Case and blanks do not count. */
function isHeldOut(text: string, share: number, seed: number): boolean {
  if (share === 0) return false;
  const hash = createHash("sha256")
    .update(`${seed}\n${text.toLowerCase().replace(/\s+/g, " ").trim()}`)
    .digest();
  return hash.readUInt32LE() / 2 ** 32 < share;
}

/** One side of the split of some files. */
class IndexedRecords<R extends Example> implements RecordSource<R> {
  readonly length: number;
  readonly chunkSizes: Uint32Array;
  readonly bytes: number;
  readonly key: string;
  readonly #chunks: { file: RecordFile; bits: Buffer; piece: Piece; before: number }[] = [];
  readonly #kind: Kind<R>;
  readonly #held: boolean;

  constructor(files: readonly RecordFile[], indices: readonly FileIndex[], kind: Kind<R>, held: boolean, options: OpenOptions) {
    this.#kind = kind;
    this.#held = held;
    const sizes: number[] = [];
    for (const [f, index] of indices.entries()) {
      const bits = Buffer.from(index.heldOutBits, "base64");
      let before = 0;
      for (const [i, count] of index.counts.entries()) {
        const size = held ? index.heldOut[i]! : count - index.heldOut[i]!;
        const [offset, length, line] = index.pieces.slice(3 * i, 3 * i + 3) as [number, number, number];
        if (size > 0) {
          sizes.push(size);
          this.#chunks.push({ file: files[f]!, bits, piece: { offset, length, line }, before });
        }
        before += count;
      }
    }
    this.chunkSizes = Uint32Array.from(sizes);
    this.length = sizes.reduce((a, b) => a + b, 0);
    const all = indices.reduce((sum, { counts }) => sum + counts.reduce((a, b) => a + b, 0), 0);
    this.bytes = (files.reduce((sum, { size }) => sum + size, 0) * this.length) / Math.max(1, all);
    this.key = contentKey(kind.name, `${options.heldOut ?? 0} ${options.seed ?? 0} ${held}`, ...indices.map(({ sha256 }) => sha256));
  }

  chunk(index: number): R[] {
    const { file, bits, piece, before } = this.#chunks[index]!;
    const { records } = this.#kind.read(file.rows(piece), file.file);
    return records.filter((_, i) => Boolean((bits[(before + i) >> 3]! >> ((before + i) & 7)) & 1) === this.#held);
  }
}
