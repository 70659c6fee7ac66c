import { fstatSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { allocate, converted, dtypeSize, EspalierError, type FileStorage, type Storage, type TypedArray } from "../graph/index.ts";
import { type OnnxFile, type OnnxTensor, parseOnnx, type StoredType, typeName } from "../onnx/decode/index.ts";
import { WireReader } from "../onnx/wire-reader.ts";
import { readStorage, withFile } from "../runtime/stored-values.ts";
import { isInnerPath } from "./inner-path.ts";
import { quoteName, safeElementCount } from "./safetensors-header.ts";

/** A protocol buffer can be no larger; weights of larger models are external. */
const maxBytes = 2 ** 31 - 1;

/** An open .onnx file: its graph, and where the values of its tensors are. */
export interface OpenOnnx extends OnnxFile {
  /**
   * Where a tensor's values lie. Aligned ones stay in their file and are mapped from there; 16-bit floats are widened, packed integers unpacked, when
   * they are needed. `dtype` of the storage is that of the values: float32 for 16-bit floats, int8 and uint8 for 4-bit integers.
   *
   * @throws EspalierError `onnx-tensor`: naming file, tensor and numbers; `onnx-external` for external data that is missing, too short, or outside of
   *   the model's directory
   */
  storage(tensor: OnnxTensor): Storage;
}

/**
 * Opens an .onnx file of any exporter. The values of its weights are not read, nor files with external data opened, before a weight is asked for.
 *
 * @throws EspalierError `checkpoint-missing`, `onnx-damaged`
 */
export function openOnnx(file: string): OpenOnnx {
  const { bytes, path } = withFile(file, (descriptor, path) => {
    const { size } = fstatSync(descriptor);
    if (size > maxBytes)
      throw new EspalierError(
        "onnx-damaged",
        `${file}: has ${size} bytes; an .onnx file has at most ${maxBytes}, its weights beside it. Is it the file with the weights?`,
      );
    return { bytes: readFileSync(descriptor), path };
  });
  const parsed = parseOnnx(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), file);
  return { ...parsed, storage: (tensor) => new TensorReader(file, path, tensor).storage() };
}

const storedBits = (dtype: StoredType): number => (dtype === "int4" || dtype === "uint4" ? 4 : dtypeSize[dtype] * 8);

class TensorReader {
  readonly #file: string;
  readonly #path: string;
  readonly #tensor: OnnxTensor;

  constructor(file: string, path: string, tensor: OnnxTensor) {
    this.#file = file;
    this.#path = path;
    this.#tensor = tensor;
  }

  storage(): Storage {
    const { shape, dtype, typeCode } = this.#tensor;
    if (!dtype) throw this.#error("onnx-tensor", `its type ${typeName(typeCode)} is none that Espalier computes in`);
    const count = shape.every((d) => Number.isSafeInteger(d) && d >= 0) ? safeElementCount(shape) : undefined;
    if (count === undefined) throw this.#error("onnx-tensor", `[${shape.join(", ")}] is no shape`);
    const stored = this.#stored(dtype, count, Math.ceil((count * storedBits(dtype)) / 8));
    return dtype === "float16" || dtype === "bfloat16" ? converted(stored, "float32") : stored;
  }

  #stored(dtype: StoredType, count: number, needed: number): Storage {
    const { shape, data } = this.#tensor;
    if (data.kind === "numbers") return this.#numbers(dtype, count);
    const held = data.kind === "raw" ? { file: this.#path, ...data } : this.#external(data, needed);
    if (held.byteLength !== needed)
      throw this.#error("onnx-tensor", `${dtype} [${shape.join(", ")}] needs ${needed} bytes, but it has ${held.byteLength}`);
    if (dtype === "int4" || dtype === "uint4") {
      const bytes: FileStorage = {
        kind: "file",
        dtype: "uint8",
        shape: [needed],
        file: held.file,
        offset: held.offset,
        byteLength: needed,
      };
      return {
        kind: "lazy",
        dtype: dtype === "int4" ? "int8" : "uint8",
        shape,
        load: () => unpacked(readStorage(bytes) as Uint8Array, dtype, count),
      };
    }
    const storage: FileStorage = { kind: "file", dtype, shape, file: held.file, offset: held.offset, byteLength: needed };
    // What is mapped must be aligned to its elements; a protocol buffer aligns nothing.
    if (held.offset % dtypeSize[dtype] === 0) return storage;
    return { kind: "lazy", dtype, shape, load: () => readStorage(storage) };
  }

  /** Values that are numbers of the protocol buffer. */
  #numbers(dtype: StoredType, count: number): Storage {
    const { data, shape } = this.#tensor;
    if (data.kind !== "numbers") throw new Error("unreachable");
    const bytes = data.parts.reduce((n, part) => n + part.length, 0);
    const least = data.of === "float" ? 4 : data.of === "double" ? 8 : 1;
    if (count * least > bytes)
      throw this.#error("onnx-tensor", `[${shape.join(", ")}] has ${count} elements, but its ${bytes} bytes hold fewer`);
    if (dtype === "int4" || dtype === "uint4") throw this.#error("onnx-tensor", "packed integers must be raw data");
    return {
      kind: "lazy",
      dtype,
      shape,
      load: () => {
        const values = allocate(dtype, count);
        let done = 0;
        for (const part of data.parts) done = readNumbers(new WireReader(part), data.of, values, done);
        if (done !== count) throw this.#error("onnx-tensor", `[${shape.join(", ")}] has ${count} elements, but ${done} values are given`);
        return values;
      },
    };
  }

  /** External data, which must lie in the model's directory, whatever the file says. */
  #external(
    { location, offset, byteLength }: { location: string; offset: number; byteLength: number | undefined },
    needed: number,
  ): { file: string; offset: number; byteLength: number } {
    if (!isInnerPath(location.replace(/^(\.\/)+/, "")))
      throw this.#error("onnx-external", `its values are said to lie in ${quoteName(location)}, which is not within the model's directory`);
    const path = join(dirname(this.#file), location);
    const length = byteLength ?? needed;
    if (![offset, length].every((n) => Number.isSafeInteger(n) && n >= 0))
      throw this.#error("onnx-external", `its values are said to be ${length} bytes from ${offset} of ${quoteName(location)}`);
    let file: string;
    let size: number;
    try {
      file = realpathSync(path);
      const stats = statSync(file);
      size = stats.isFile() ? stats.size : -1;
    } catch (cause) {
      throw this.#error("onnx-external", `its values lie in ${path}, which cannot be read: copy the file to where the model is`, cause);
    }
    if (offset + length > size)
      throw this.#error(
        "onnx-external",
        `its values end at byte ${offset + length} of ${path}, which has ${size}: the file is cut short or another model's`,
      );
    return { file, offset, byteLength: length };
  }

  #error(code: string, reason: string, cause?: unknown): EspalierError {
    return new EspalierError(code, `${this.#file}: tensor ${quoteName(this.#tensor.name)}: ${reason}.`, { cause });
  }
}

/** Two elements in a byte, the first in the lower half. */
function unpacked(bytes: Uint8Array, dtype: "int4" | "uint4", count: number): TypedArray {
  const values = allocate(dtype === "int4" ? "int8" : "uint8", count) as Int8Array | Uint8Array;
  for (let i = 0; i < count; i++) {
    const half = (bytes[i >> 1]! >> (i % 2 === 0 ? 0 : 4)) & 15;
    values[i] = dtype === "int4" && half > 7 ? half - 16 : half;
  }
  return values;
}

/** Reads packed numbers into `values` from place `at` on, and returns the place after them; those that have no place are only counted. */
function readNumbers(r: WireReader, of: string, values: TypedArray, at: number): number {
  while (r.position < r.end) {
    if (of === "float") values[at] = r.float({ number: 4, type: 5 }) as never;
    else if (of === "double") values[at] = r.double() as never;
    else if (values instanceof BigInt64Array) values[at] = r.bigint();
    // 16-bit floats come as their patterns.
    else values[at] = r.int({ number: 5, type: 0 }) as never;
    at++;
  }
  return at;
}
