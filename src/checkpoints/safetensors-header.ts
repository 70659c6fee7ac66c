/**
 * The header of a safetensors file: `u64 little-endian header length | JSON header | values`.
 *
 * Everything a file can claim is checked here, before any value is touched: what passes describes tensors that lie inside the
 * file, do not overlap, leave no byte unclaimed, and have as many bytes as their shape and dtype say. No file system here, so
 * the browser can use it too.
 */
import { type DType, dtypeSize } from "../graph/dtype.ts";
import { EspalierError, show } from "../graph/errors.ts";
import { parseJson } from "../graph/parse-json.ts";
import { findDuplicateKey } from "./duplicate-key.ts";

/** The format's own cap: no honest header is larger, and it bounds what a hostile file can make us allocate. */
export const maxHeaderBytes = 100_000_000;

/** Bytes before the JSON header: its length as a little-endian u64. */
export const prefixBytes = 8;

/** One tensor; `begin` and `end` count bytes from the start of the data section. */
export interface TensorEntry {
  dtype: DType;
  shape: readonly number[];
  begin: number;
  end: number;
}

export interface SafetensorsHeader {
  metadata: Record<string, string>;
  tensors: Map<string, TensorEntry>;
}

const dtypeOfCode: Readonly<Record<string, DType>> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  I64: "int64",
  I32: "int32",
  I8: "int8",
  U8: "uint8",
  BOOL: "bool",
};

const codeOfDtype = Object.fromEntries(Object.entries(dtypeOfCode).map(([code, dtype]) => [dtype, code])) as Record<DType, string>;

/** Legal in the format, but nothing here computes with them: told apart so that the message does not call the file broken. */
const legalButUnsupported = new Set(["I16", "U16", "U32", "U64", "C64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2"]);

/** Elements of a tensor, or `undefined` when the product leaves the exactly representable integers. */
export function safeElementCount(shape: readonly number[]): number | undefined {
  if (shape.includes(0)) return 0;
  const count = shape.reduce((product, dimension) => product * dimension, 1);
  return Number.isSafeInteger(count) ? count : undefined;
}

/** A tensor name for a message: quoted, so that odd characters show, and never a screenful. */
export function quoteName(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 117)}...` : name);
}

/**
 * Parses and checks the JSON header.
 *
 * @param bytes the JSON part alone, without the length before it
 * @param dataBytes how many bytes follow the header in the file
 * @param file only named in messages
 */
export function parseHeader(bytes: Uint8Array, dataBytes: number, file: string): SafetensorsHeader {
  const json = parseJsonObject(bytes, file);
  const tensors = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") metadata = checkMetadata(value, file);
    else tensors.set(name, checkEntry(name, value, dataBytes, file));
  }
  checkCoverage(tensors, dataBytes, file);
  return { metadata, tensors };
}

/**
 * The length prefix and JSON header for tensors laid out in the order given, padded with spaces (which the format allows) so
 * that the data section starts at a multiple of 64 bytes: mapped values are then aligned for every dtype and cache line.
 */
export function encodeHeader(
  tensors: Iterable<readonly [name: string, tensor: { dtype: DType; shape: readonly number[]; byteLength: number }]>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  // A prototype-less object, so that a tensor called "__proto__" is only a name.
  const json: Record<string, unknown> = Object.create(null);
  if (Object.keys(metadata).length > 0) json.__metadata__ = metadata;
  let begin = 0;
  for (const [name, { dtype, shape, byteLength }] of tensors) {
    json[name] = { dtype: codeOfDtype[dtype], shape, data_offsets: [begin, begin + byteLength] };
    begin += byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(json));
  const total = Math.ceil((prefixBytes + text.length) / 64) * 64;
  if (total - prefixBytes > maxHeaderBytes) {
    throw new EspalierError(
      "checkpoint-header",
      `the names and shapes need a header of ${total - prefixBytes} bytes; safetensors allows ${maxHeaderBytes}. Split the tensors over several files.`,
    );
  }
  const out = new Uint8Array(total).fill(0x20);
  new DataView(out.buffer).setBigUint64(0, BigInt(total - prefixBytes), true);
  out.set(text, prefixBytes);
  return out;
}

function parseJsonObject(bytes: Uint8Array, file: string): Record<string, unknown> {
  const damaged = (what: string, cause?: unknown) =>
    new EspalierError(
      "checkpoint-header",
      `${file}: the header (${bytes.length} bytes from offset ${prefixBytes}) ${what}. The file is damaged or not safetensors: fetch or save it again.`,
      { cause },
    );
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw damaged("is not UTF-8", cause);
  }
  if (!text.startsWith("{")) throw damaged(`must start with "{", not with ${JSON.stringify(text.slice(0, 8))}`);
  let json: Record<string, unknown>;
  try {
    json = parseJson(text) as Record<string, unknown>;
  } catch (cause) {
    throw damaged(`is not valid JSON (${(cause as Error).message})`, cause);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw damaged(`has the key ${quoteName(duplicate)} twice`);
  return json;
}

function checkMetadata(value: unknown, file: string): Record<string, string> {
  const wrong = isRecord(value) ? Object.entries(value).find(([, entry]) => typeof entry !== "string")?.[0] : "";
  if (wrong !== undefined) {
    const where = wrong === "" ? "it" : `its key ${quoteName(wrong)}`;
    throw new EspalierError(
      "checkpoint-header",
      `${file}: "__metadata__" must map strings to strings; ${where} does not. Save the file again with string values only.`,
    );
  }
  return value as Record<string, string>;
}

function checkEntry(name: string, value: unknown, dataBytes: number, file: string): TensorEntry {
  const where = `${file}: tensor ${quoteName(name)}`;
  if (!isRecord(value)) {
    throw new EspalierError("checkpoint-header", `${where} must be described by {dtype, shape, data_offsets}. Save the file again.`);
  }
  const dtype = checkDtype(value.dtype, where);
  const { shape, data_offsets: offsets } = value;
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw new EspalierError(
      "checkpoint-shape",
      `${where}: shape must be a list of whole numbers ≥ 0, not ${show(shape)}. Save the file again.`,
    );
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount) || offsets[0]! > offsets[1]!) {
    throw new EspalierError(
      "checkpoint-offsets",
      `${where}: data_offsets must be [begin, end] with 0 ≤ begin ≤ end, not ${show(offsets)}. Save the file again.`,
    );
  }
  const [begin, end] = offsets as [number, number];
  const count = safeElementCount(shape);
  if (count === undefined || count * dtypeSize[dtype] !== end - begin) {
    const needed = count === undefined ? "more bytes than any file has" : `${count * dtypeSize[dtype]} bytes`;
    throw new EspalierError(
      "checkpoint-shape",
      `${where}: ${dtype} [${shape.join(", ")}] needs ${needed}, but data_offsets [${begin}, ${end}] hold ${end - begin}. The header is wrong: save the file again.`,
    );
  }
  if (end > dataBytes) {
    throw new EspalierError(
      "checkpoint-truncated",
      `${where} ends at byte ${end} of the data section, but the file has only ${dataBytes} there (${end - dataBytes} missing). The file is cut short: fetch or copy it again.`,
    );
  }
  return { dtype, shape, begin, end };
}

function checkDtype(code: unknown, where: string): DType {
  if (typeof code === "string" && Object.hasOwn(dtypeOfCode, code)) return dtypeOfCode[code]!;
  const known = Object.keys(dtypeOfCode).join(", ");
  throw new EspalierError(
    "checkpoint-dtype",
    typeof code === "string" && legalButUnsupported.has(code)
      ? `${where} has dtype ${code}, which Espalier does not compute with. Convert the file to one of ${known}.`
      : `${where} has the unknown dtype ${show(code)}. Known are ${known}; save the file again with one of them.`,
  );
}

/** Sorted by offset, each tensor must begin where the one before ends: no overlap, no hole for smuggled bytes, nothing trailing. */
function checkCoverage(tensors: Map<string, TensorEntry>, dataBytes: number, file: string): void {
  const ordered = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  let before = "";
  for (const [name, { begin, end }] of ordered) {
    if (begin < covered) {
      throw new EspalierError(
        "checkpoint-offsets",
        `${file}: tensors ${quoteName(before)} and ${quoteName(name)} overlap: the first ends at byte ${covered}, the second begins at ${begin}. The header is wrong: save the file again.`,
      );
    }
    if (begin > covered) {
      const after = before === "" ? "the start of the data section" : `tensor ${quoteName(before)}`;
      throw new EspalierError(
        "checkpoint-offsets",
        `${file}: ${begin - covered} bytes between ${after} (byte ${covered}) and tensor ${quoteName(name)} (byte ${begin}) belong to no tensor. The header is wrong: save the file again.`,
      );
    }
    covered = end;
    before = name;
  }
  if (covered < dataBytes) {
    throw new EspalierError(
      "checkpoint-trailing",
      `${file}: ${dataBytes - covered} bytes after the last tensor (byte ${covered} of ${dataBytes}) belong to no tensor. The file was appended to or its header is wrong: fetch or save it again.`,
    );
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
