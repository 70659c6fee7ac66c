import { dtypeSize } from "../../graph/dtype.ts";
import { EspalierError } from "../../graph/errors.ts";
import type { Storage } from "../../graph/storage.ts";
import { rawBytes } from "../../onnx/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { writeFileAtomically } from "../atomic-file.ts";
import { quoteName, safeElementCount } from "../safetensors-header.ts";

/** A metadata value; a plain number would not say which of the format's ten number types it is. */
export type GgufValue = string | boolean | { uint32: number } | { float32: number };

const alignment = 32;
/** llama.cpp keeps names in 64 bytes, of which one ends them. */
const longestName = 63;
const typeCodes: Readonly<Record<string, number>> = { float32: 0, float16: 1, bfloat16: 30 };

/**
 * Writes a GGUF file (version 3), whole or not at all. Values are read and written one tensor after the other.
 *
 * @throws EspalierError `checkpoint-dtype` (a tensor that is not float32, float16 or bfloat16), `checkpoint-shape`, `checkpoint-file-name` (a
 *   name too long), `disk-full`, `not-writable`
 */
export function writeGguf(file: string, metadata: Readonly<Record<string, GgufValue>>, tensors: ReadonlyMap<string, Storage>): void {
  const header = new Bytes();
  header.text("GGUF").u32(3).u64(tensors.size).u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) header.string(key).value(value);
  let offset = 0;
  for (const [name, { dtype, shape }] of tensors) {
    const code = typeCodes[dtype];
    if (code === undefined)
      throw new EspalierError(
        "checkpoint-dtype",
        `${file}: tensor ${quoteName(name)} is ${dtype}; GGUF files are written in float32, float16 or bfloat16.`,
      );
    if (Buffer.byteLength(name) > longestName || shape.length > 4 || shape.length === 0)
      throw new EspalierError(
        "checkpoint-shape",
        `${file}: tensor ${quoteName(name)} [${shape.join(", ")}] cannot be written: llama.cpp takes names of up to ${longestName} bytes and one to four dimensions. Rename or reshape it.`,
      );
    header.string(name).u32(shape.length);
    for (const size of shape.toReversed()) header.u64(size);
    header.u32(code).u64(offset);
    offset += padded(byteLength(file, name, dtype, shape));
  }
  writeFileAtomically(file, (append) => {
    append(header.padded());
    for (const [name, storage] of tensors) {
      const bytes = rawBytes(readStorage(storage));
      const needed = byteLength(file, name, storage.dtype, storage.shape);
      if (bytes.length !== needed)
        throw new EspalierError(
          "checkpoint-shape",
          `${file}: tensor ${quoteName(name)} [${storage.shape.join(", ")}] needs ${needed} bytes, its storage holds ${bytes.length}. Give it the shape of its values.`,
        );
      append(bytes);
      append(new Uint8Array(padded(needed) - needed));
    }
  });
}

const padded = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

function byteLength(file: string, name: string, dtype: Storage["dtype"], shape: readonly number[]): number {
  const count = safeElementCount(shape);
  if (count !== undefined) return count * dtypeSize[dtype];
  throw new EspalierError(
    "checkpoint-shape",
    `${file}: tensor ${quoteName(name)} has the shape [${shape.join(", ")}], more values than any file holds.`,
  );
}

/** Little-endian bytes in the making. */
class Bytes {
  readonly #parts: Uint8Array[] = [];

  u32(value: number): this {
    return this.#number(4, (view) => view.setUint32(0, value, true));
  }

  u64(value: number): this {
    return this.#number(8, (view) => view.setBigUint64(0, BigInt(value), true));
  }

  f32(value: number): this {
    return this.#number(4, (view) => view.setFloat32(0, value, true));
  }

  text(text: string): this {
    this.#parts.push(new TextEncoder().encode(text));
    return this;
  }

  string(text: string): this {
    return this.u64(Buffer.byteLength(text)).text(text);
  }

  value(value: GgufValue): this {
    if (typeof value === "string") return this.u32(8).string(value);
    if (typeof value === "boolean") return this.u32(7).text(value ? "\x01" : "\0");
    return "uint32" in value ? this.u32(4).u32(value.uint32) : this.u32(6).f32(value.float32);
  }

  padded(): Uint8Array {
    const bytes = Buffer.concat(this.#parts);
    return Buffer.concat([bytes], padded(bytes.length));
  }

  #number(bytes: number, set: (view: DataView) => void): this {
    const part = new Uint8Array(bytes);
    set(new DataView(part.buffer));
    this.#parts.push(part);
    return this;
  }
}
