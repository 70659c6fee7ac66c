/**
 * A GGUF file, the format of llama.cpp: `"GGUF" | u32 version | u64 tensors | u64 keys | keys and values | tensor infos | padding | values`,
 * little-endian. Opening reads keys and infos only, and checks everything that they claim; long lists of the metadata (a vocabulary) are
 * passed over and read when asked for.
 */
import { fstatSync } from "node:fs";
import { EspalierError } from "../../graph/errors.ts";
import { withFile } from "../../runtime/stored-values.ts";
import { quoteName, safeElementCount } from "../safetensors-header.ts";
import { Cursor } from "./cursor.ts";
import { type GgmlType, readableTypes } from "./ggml-types.ts";

/** A list of the metadata, still in the file. */
interface StoredList {
  readonly elementType: number;
  readonly length: number;
  readonly offset: number;
}

type StoredValue = string | number | bigint | boolean | StoredList;

/** One tensor; nothing has been read of its values. */
export interface GgufTensor {
  readonly name: string;
  /** Number of the element type in the file. */
  readonly typeCode: number;
  /** Absent when the type is one that Espalier does not read; then the extent in the file is not known either. */
  readonly type: GgmlType | undefined;
  /** Slowest dimension first, as everywhere in Espalier; the file has them the other way round. */
  readonly shape: readonly number[];
  /** Of the first byte, from the start of the file. */
  readonly offset: number;
  /** 0 where the type is not readable. */
  readonly byteLength: number;
}

/** Bytes per element of a metadata value, by the number of its type; strings (8) and lists (9) have their own length. */
const scalarBytes: Readonly<Record<number, number>> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const stringType = 8;
const listType = 9;
const maxDimensions = 4;
const magic = 0x46554747;

/** A key with an empty name, a type and a byte; an info with an empty name, one dimension, a type and an offset. */
const smallestKeyBytes = 8 + 4 + 1;
const smallestInfoBytes = 8 + 4 + 4 + 8;

export class GgufFile {
  /** As the caller named it. */
  readonly file: string;
  /** The real file behind symbolic links, absolute. */
  readonly path: string;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readonly #values: ReadonlyMap<string, StoredValue>;

  private constructor(file: string, path: string, values: ReadonlyMap<string, StoredValue>, tensors: ReadonlyMap<string, GgufTensor>) {
    this.file = file;
    this.path = path;
    this.#values = values;
    this.tensors = tensors;
  }

  /**
   * @throws EspalierError `checkpoint-missing`, `-truncated`, `-header`, `-shape`, `-offsets`, naming the file and the key or tensor
   */
  static open(file: string): GgufFile {
    return withFile(file, (descriptor, path) => {
      const cursor = new Cursor(descriptor, fstatSync(descriptor).size, file);
      const { tensorCount, keyCount } = readPrefix(cursor);
      const values = readKeys(cursor, keyCount);
      const tensors = readTensorInfos(cursor, tensorCount, alignmentOf(values, cursor));
      return new GgufFile(file, path, values, tensors);
    });
  }

  get keys(): string[] {
    return [...this.#values.keys()];
  }

  has(key: string): boolean {
    return this.#values.has(key);
  }

  string(key: string): string | undefined {
    return this.#scalar(key, "string", "a string");
  }

  boolean(key: string): boolean | undefined {
    return this.#scalar(key, "boolean", "true or false");
  }

  number(key: string): number | undefined {
    return this.#scalar(key, "number", "a number");
  }

  /** A whole number ≥ 0. */
  count(key: string): number | undefined {
    const value = this.number(key);
    if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) return value;
    throw this.wrongValue(key, "a whole number ≥ 0", String(value));
  }

  /** The value, or an error that says that the file lacks it. */
  require<T>(key: string, value: T | undefined): T {
    if (value !== undefined) return value;
    throw new EspalierError("checkpoint-header", `${this.file}: has no key "${key}", which a model needs. Convert the model again.`);
  }

  strings(key: string): string[] | undefined {
    const list = this.#list(key);
    if (!list) return undefined;
    if (list.elementType !== stringType) throw this.wrongValue(key, "a list of strings", "a list of another type");
    return this.#readList(key, list, (cursor) => cursor.string());
  }

  numbers(key: string): number[] | undefined {
    const list = this.#list(key);
    if (!list) return undefined;
    // Of bytes, a list of JavaScript numbers would take eight times the file.
    if (list.elementType === stringType || scalarBytes[list.elementType]! < 4)
      throw this.wrongValue(key, "a list of numbers of 32 or 64 bits", "a list of another type");
    return this.#readList(key, list, (cursor) => Number(readScalar(cursor, list.elementType)));
  }

  /** Whether the value is a list: some keys hold one number for all layers or one for each. */
  isList(key: string): boolean {
    return typeof this.#values.get(key) === "object";
  }

  wrongValue(key: string, wanted: string, found: string): EspalierError {
    return new EspalierError(
      "checkpoint-header",
      `${this.file}: the key ${quoteName(key)} must hold ${wanted}, not ${found}. The file is damaged or was written by a faulty converter: fetch or convert it again.`,
    );
  }

  #scalar<T extends string | number | boolean>(key: string, type: string, wanted: string): T | undefined {
    const value = this.#values.get(key);
    if (value === undefined || typeof value === type) return value as T | undefined;
    throw this.wrongValue(key, wanted, typeof value === "object" ? "a list" : `the ${typeof value} ${quoteName(String(value))}`);
  }

  #list(key: string): StoredList | undefined {
    const value = this.#values.get(key);
    if (value === undefined || typeof value === "object") return value;
    throw this.wrongValue(key, "a list", `the ${typeof value} ${quoteName(String(value))}`);
  }

  #readList<T>(key: string, list: StoredList, read: (cursor: Cursor) => T): T[] {
    return withFile(this.path, (descriptor) => {
      const cursor = new Cursor(descriptor, fstatSync(descriptor).size, this.file, list.offset);
      cursor.subject = `the key ${quoteName(key)}`;
      const values = new Array<T>(list.length);
      for (let i = 0; i < list.length; i++) values[i] = read(cursor);
      return values;
    });
  }
}

function readPrefix(cursor: Cursor): { tensorCount: number; keyCount: number } {
  if (cursor.size < 4 || cursor.u32() !== magic) {
    throw new EspalierError(
      "checkpoint-header",
      `${cursor.file}: is not a GGUF file, it does not start with "GGUF". If it is a Git LFS pointer, run "git lfs pull"; otherwise fetch it again.`,
    );
  }
  const version = cursor.u32();
  if (version !== 2 && version !== 3) {
    const swapped = version !== 0 && (version & 0xffff) === 0;
    throw new EspalierError(
      "checkpoint-header",
      `${cursor.file}: ${swapped ? "is a big-endian GGUF file" : `has the GGUF version ${version}`}; Espalier reads little-endian files of the versions 2 and 3. Convert the model again with a present llama.cpp.`,
    );
  }
  cursor.subject = "the number of tensors";
  const tensorCount = cursor.count(smallestInfoBytes);
  cursor.subject = "the number of keys";
  const keyCount = cursor.count(smallestKeyBytes);
  return { tensorCount, keyCount };
}

function readKeys(cursor: Cursor, count: number): Map<string, StoredValue> {
  const values = new Map<string, StoredValue>();
  for (let i = 0; i < count; i++) {
    cursor.subject = `key ${i} of ${count}`;
    const key = cursor.string();
    if (values.has(key)) throw cursor.damaged(`has the key ${quoteName(key)} twice`);
    cursor.subject = `the key ${quoteName(key)}`;
    values.set(key, readValue(cursor));
  }
  return values;
}

function readValue(cursor: Cursor): StoredValue {
  const type = cursor.u32();
  if (type === stringType) return cursor.string();
  if (type !== listType) return readScalar(cursor, type);
  const elementType = cursor.u32();
  const bytes = elementType === stringType ? 8 : scalarBytes[elementType];
  // llama.cpp refuses lists of lists too.
  if (bytes === undefined) throw cursor.damaged(`${cursor.subject} is a list of elements of the unknown type ${elementType}`);
  const length = cursor.count(bytes);
  const { position: offset } = cursor;
  if (elementType === stringType) for (let i = 0; i < length; i++) cursor.skip(cursor.count(1));
  else cursor.skip(length * bytes);
  return { elementType, length, offset };
}

function readScalar(cursor: Cursor, type: number): number | bigint | boolean {
  switch (type) {
    case 0:
      return cursor.u8();
    case 1:
      return cursor.i8();
    case 2:
      return cursor.u16();
    case 3:
      return cursor.i16();
    case 4:
      return cursor.u32();
    case 5:
      return cursor.i32();
    case 6:
      return cursor.f32();
    case 7: {
      const byte = cursor.u8();
      if (byte > 1) throw cursor.damaged(`${cursor.subject} is a bool of the value ${byte}`);
      return byte === 1;
    }
    case 10:
      return asNumber(cursor.u64());
    case 11:
      return asNumber(cursor.i64());
    case 12:
      return cursor.f64();
    default:
      throw cursor.damaged(`${cursor.subject} has a value of the unknown type ${type}`);
  }
}

/** As a number where that is exact. */
function asNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function alignmentOf(values: ReadonlyMap<string, StoredValue>, cursor: Cursor): number {
  const alignment = values.get("general.alignment") ?? 32;
  if (typeof alignment === "number" && alignment >= 1 && Number.isInteger(Math.log2(alignment))) return alignment;
  throw cursor.damaged(
    `the key "general.alignment" must hold a power of two, not ${typeof alignment === "object" ? "a list" : String(alignment)}`,
  );
}

function readTensorInfos(cursor: Cursor, count: number, alignment: number): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < count; i++) {
    cursor.subject = `tensor ${i} of ${count}`;
    const name = cursor.string();
    cursor.subject = `tensor ${quoteName(name)}`;
    if (tensors.has(name)) throw cursor.damaged(`has the ${cursor.subject} twice`);
    tensors.set(name, readTensorInfo(cursor, name));
  }
  // Offsets count from the first multiple of the alignment after the infos.
  const start = Math.ceil(cursor.position / alignment) * alignment;
  for (const [name, tensor] of tensors) tensors.set(name, { ...tensor, offset: start + tensor.offset });
  checkExtents(tensors, cursor, alignment);
  return tensors;
}

function readTensorInfo(cursor: Cursor, name: string): GgufTensor {
  const dimensions = cursor.u32();
  if (dimensions > maxDimensions)
    throw badShape(cursor, `has ${dimensions} dimensions; the format allows ${maxDimensions}. Fetch or convert the file again`);
  const shape: number[] = [];
  for (let d = 0; d < dimensions; d++) {
    const size = asNumber(cursor.u64());
    if (typeof size === "bigint")
      throw badShape(cursor, `has the size ${size} in dimension ${d}, which is more than any file holds. Fetch it again`);
    shape.unshift(size);
  }
  const typeCode = cursor.u32();
  const type = readableTypes.get(typeCode);
  const offset = asNumber(cursor.u64());
  if (typeof offset === "bigint")
    throw new EspalierError(
      "checkpoint-offsets",
      `${cursor.file}: ${cursor.subject} lies at byte ${offset} of the values, beyond any file. Fetch the file again.`,
    );
  if (!type) return { name, typeCode, type, shape, offset, byteLength: 0 };
  const row = shape.at(-1) ?? 1;
  if (row % type.blockSize !== 0)
    throw badShape(
      cursor,
      `has rows of ${row} values, but ${type.name} stores blocks of ${type.blockSize}. Fetch or convert the file again`,
    );
  const values = safeElementCount(shape);
  if (values === undefined) throw badShape(cursor, `has the shape [${shape.join(", ")}], more values than any file holds. Fetch it again`);
  return { name, typeCode, type, shape, offset, byteLength: (values / type.blockSize) * type.blockBytes };
}

/** Every tensor is aligned, inside the file, and shares no byte with another. */
function checkExtents(tensors: ReadonlyMap<string, GgufTensor>, cursor: Cursor, alignment: number): void {
  let before: GgufTensor | undefined;
  for (const tensor of [...tensors.values()].sort((a, b) => a.offset - b.offset)) {
    const { name, offset, byteLength } = tensor;
    const end = offset + byteLength;
    if (end > cursor.size)
      throw cursor.truncated(
        `tensor ${quoteName(name)} ends at byte ${end}, but the file has ${cursor.size} (${end - cursor.size} missing)`,
      );
    if (offset % alignment !== 0)
      throw new EspalierError(
        "checkpoint-offsets",
        `${cursor.file}: tensor ${quoteName(name)} lies at byte ${offset}, which is not a multiple of the file's alignment ${alignment}. Fetch or convert the file again.`,
      );
    if (before && before.offset + before.byteLength > offset)
      throw new EspalierError(
        "checkpoint-offsets",
        `${cursor.file}: the tensors ${quoteName(before.name)} and ${quoteName(name)} overlap (at byte ${offset}). Fetch or convert the file again.`,
      );
    if (byteLength > 0) before = tensor;
  }
}

const badShape = (cursor: Cursor, what: string) => new EspalierError("checkpoint-shape", `${cursor.file}: ${cursor.subject} ${what}.`);
