import { createHash } from "node:crypto";
import { closeSync, openSync, readSync, statSync, utimesSync } from "node:fs";
import { AtomicFile } from "../checkpoints/atomic-file.ts";
import { EspalierError } from "../graph/errors.ts";
import { prefixSums } from "./window-order.ts";

/**
 * Rows of token ids in a file (or in memory): ids, a bit for each where they are marked, the rows' lengths, and at the end a description:
 *
 *     ids (2 or 4 bytes each) · marks (1 bit each, whole bytes) · lengths (4 bytes each) · JSON · its length (4 bytes) · "ESPTOK02"
 *
 * Numbers are little-endian.
 */
const magic = "ESPTOK02";
const trailerBytes = 4 + magic.length;
/** A file up to this size is checked against its hash when it is opened; a larger one by the parts that are read anyway. */
const hashedBytes = 2 ** 28;

interface Description {
  key: string;
  rows: number;
  ids: number;
  bytesPerId: 2 | 4;
  marked: boolean;
  sha256: string;
}

export type TokenIds = Uint16Array | Int32Array;

/** Ids by row, read as they are asked for. */
export class TokenTable {
  readonly rows: number;
  /** Ids of all rows. */
  readonly length: number;
  readonly marked: boolean;
  readonly #starts: Float64Array;
  readonly #bytesPerId: 2 | 4;
  readonly #read: (offset: number, length: number) => Uint8Array;
  readonly #close: () => void;

  constructor(description: Description, lengths: Uint32Array, read: (offset: number, length: number) => Uint8Array, close = () => {}) {
    this.rows = description.rows;
    this.length = description.ids;
    this.marked = description.marked;
    this.#bytesPerId = description.bytesPerId;
    this.#starts = prefixSums(lengths);
    this.#read = read;
    this.#close = close;
  }

  lengthOf(row: number): number {
    return this.#starts[row + 1]! - this.#starts[row]!;
  }

  ids(row: number): TokenIds {
    return this.subarray(this.#starts[row]!, this.#starts[row + 1]!);
  }

  /** Ids of the rows one after the other: a range of them, as of a typed array. */
  subarray(start: number, end: number): TokenIds {
    const bytes = this.#read(start * this.#bytesPerId, (end - start) * this.#bytesPerId);
    return this.#bytesPerId === 2 ? new Uint16Array(bytes.buffer, 0, end - start) : new Int32Array(bytes.buffer, 0, end - start);
  }

  /** The marks of a row's ids, 0 or 1. */
  marks(row: number): Uint8Array {
    const [start, end] = [this.#starts[row]!, this.#starts[row + 1]!];
    const first = Math.floor(start / 8);
    const bits = this.#read(this.length * this.#bytesPerId + first, Math.ceil(end / 8) - first);
    return Uint8Array.from({ length: end - start }, (_, i) => (bits[Math.floor((start + i) / 8) - first]! >> ((start + i) % 8)) & 1);
  }

  close(): void {
    this.#close();
  }
}

/** Takes rows and makes a table of them: in a file, whole or not at all, or in memory. */
export class TokenTableWriter {
  readonly #key: string;
  readonly #bytesPerId: 2 | 4;
  readonly #marked: boolean;
  readonly #file: { path: string; target: AtomicFile } | undefined;
  readonly #memory: Uint8Array[] = [];
  readonly #hash = createHash("sha256");
  readonly #pending = Buffer.alloc(2 ** 20);
  #filled = 0;
  #ids = 0;
  readonly #lengths = new Growing(Uint32Array);
  readonly #marks = new Growing(Uint8Array);

  /** @param path of the file; absent: in memory */
  constructor(key: string, { path, vocabSize, marked = false }: { path?: string | undefined; vocabSize: number; marked?: boolean }) {
    this.#key = key;
    this.#bytesPerId = vocabSize <= 65536 ? 2 : 4;
    this.#marked = marked;
    this.#file = path === undefined ? undefined : { path, target: new AtomicFile(path) };
  }

  /** @param marks 0 or 1 (or booleans) for every id, of a table with marks */
  add(ids: ArrayLike<number>, marks?: ArrayLike<number | boolean>): void {
    for (let i = 0; i < ids.length; i++) {
      if (this.#filled + 4 > this.#pending.length) this.#flush();
      if (this.#bytesPerId === 2) this.#filled = this.#pending.writeUInt16LE(ids[i]!, this.#filled);
      else this.#filled = this.#pending.writeInt32LE(ids[i]!, this.#filled);
      if (this.#marked) this.#mark(this.#ids + i, Boolean(marks?.[i]));
    }
    this.#ids += ids.length;
    this.#lengths.push(ids.length);
  }

  commit(): TokenTable {
    this.#flush();
    const lengths = this.#lengths.values() as Uint32Array;
    this.#append(this.#marks.values());
    this.#append(new Uint8Array(lengths.buffer, lengths.byteOffset, lengths.byteLength));
    const description: Description = {
      key: this.#key,
      rows: lengths.length,
      ids: this.#ids,
      bytesPerId: this.#bytesPerId,
      marked: this.#marked,
      sha256: this.#hash.digest("hex"),
    };
    if (!this.#file) {
      const all = Buffer.concat(this.#memory);
      return new TokenTable(description, lengths, (offset, length) => Uint8Array.prototype.slice.call(all, offset, offset + length));
    }
    const json = Buffer.from(JSON.stringify(description));
    const trailer = Buffer.alloc(trailerBytes);
    trailer.writeUInt32LE(json.length);
    trailer.write(magic, 4);
    this.#file.target.append(json);
    this.#file.target.append(trailer);
    this.#file.target.commit();
    return openTokenTable(this.#file.path, this.#key);
  }

  abandon(): void {
    this.#file?.target.abandon();
  }

  #mark(at: number, on: boolean): void {
    if (at % 8 === 0) this.#marks.push(0);
    if (on) this.#marks.last |= 1 << (at % 8);
  }

  #flush(): void {
    this.#append(this.#pending.subarray(0, this.#filled));
    this.#filled = 0;
  }

  #append(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    if (this.#file) this.#file.target.append(bytes);
    else this.#memory.push(Uint8Array.prototype.slice.call(bytes));
  }
}

/**
 * Opens a table that was written under this key.
 * @throws EspalierError `data-cache` where the file is no such table or is damaged
 */
export function openTokenTable(path: string, key: string): TokenTable {
  const damaged = (reason: string) => new EspalierError("data-cache", `${path}: is damaged (${reason}).`);
  const descriptor = openSync(path, "r");
  const read = (offset: number, length: number): Uint8Array => {
    // Not from Node's pool: the ids are looked at through another type, which wants a buffer of its own.
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const count = readSync(descriptor, bytes, done, Math.min(length - done, 2 ** 30), offset + done);
      if (count === 0) throw damaged("it ends too early");
      done += count;
    }
    return bytes;
  };
  try {
    const { size } = statSync(path);
    if (size < trailerBytes) throw damaged(`${size} bytes`);
    const trailer = Buffer.from(read(size - trailerBytes, trailerBytes));
    if (trailer.toString("latin1", 4) !== magic) throw damaged("its end is another");
    const jsonLength = trailer.readUInt32LE();
    const bodyLength = size - trailerBytes - jsonLength;
    if (bodyLength < 0) throw damaged("its description is longer than it");
    const description = describe(Buffer.from(read(bodyLength, jsonLength)).toString());
    if (!description || description.key !== key) throw damaged("its description is not this table's");
    const { rows, ids, bytesPerId, marked } = description;
    const idBytes = ids * bytesPerId + (marked ? Math.ceil(ids / 8) : 0);
    if (bodyLength !== idBytes + rows * 4) throw damaged("its size is not what it says");
    if (size <= hashedBytes && createHash("sha256").update(read(0, bodyLength)).digest("hex") !== description.sha256)
      throw damaged("its contents are not what was written");
    const lengths = new Uint32Array(read(idBytes, rows * 4).buffer);
    if (lengths.reduce((sum, length) => sum + length, 0) !== ids) throw damaged("its rows do not add up");
    // So that files in use are not taken for old ones.
    utimesSync(path, new Date(), new Date());
    return new TokenTable(description, lengths, read, () => closeSync(descriptor));
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

function describe(json: string): Description | undefined {
  try {
    const value = JSON.parse(json) as Partial<Description>;
    const counts = [value.rows, value.ids].every((n) => Number.isSafeInteger(n) && n! >= 0);
    const valid = counts && (value.bytesPerId === 2 || value.bytesPerId === 4) && typeof value.marked === "boolean";
    return valid ? (value as Description) : undefined;
  } catch {
    return undefined;
  }
}

/** A typed array that grows at its end. */
class Growing<T extends Uint32Array | Uint8Array> {
  #values: T;
  #length = 0;

  constructor(type: new (length: number) => T) {
    this.#values = new type(1024);
  }

  push(value: number): void {
    if (this.#length === this.#values.length) {
      const larger = new (this.#values.constructor as new (length: number) => T)(this.#length * 2);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.#length++] = value;
  }

  get last(): number {
    return this.#values[this.#length - 1]!;
  }

  set last(value: number) {
    this.#values[this.#length - 1] = value;
  }

  values(): T {
    return this.#values.slice(0, this.#length) as T;
  }
}
