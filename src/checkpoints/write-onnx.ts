import { existsSync, realpathSync } from "node:fs";
import { basename, resolve } from "node:path";
import { type DType, dtypeSize, EspalierError, elementCount, reachable, type Storage, type Traced, type Variable } from "../graph/index.ts";
import { encode } from "../onnx/index.ts";
import type { Provider } from "../ops/index.ts";
import { readStorage, streamStorage } from "../runtime/stored-values.ts";
import { writeFileAtomically } from "./atomic-file.ts";

export interface WriteOnnxOptions {
  /** Whether the weights go into a file of their own beside the model. Default: when they are larger than 100 MB together. */
  external?: boolean;
  /** That file, in the model's directory. Default `<file>.data`. */
  dataFile?: string;
  /** Whose operators are written. Default `onnx`: those of ONNX's own set, for any reader; `cpu` also writes ONNX Runtime's fused ones. */
  provider?: Provider;
}

export interface WrittenOnnx {
  file: string;
  /** Of the model file. */
  byteLength: number;
  /** The weights beside it, where they are external. */
  data: { file: string; byteLength: number } | undefined;
}

const externalFrom = 100e6;
/** Smaller weights stay in the model file. */
const leastExternal = 1024;
/** Weights lie at multiples of a memory page, so that they can be mapped. */
const alignment = 4096;
/** Of a protocol buffer. */
const maxModelBytes = 2 ** 31 - 1;

/**
 * Writes a traced graph as an .onnx file that any ONNX Runtime runs: variables, trained ones too, are constants with the values that their storages hold
 * (what a device trained must be persisted first). Weights are streamed, so a model of any size costs a few megabytes. An old file of that name stays
 * until the new one is complete on the disk.
 *
 * @throws EspalierError `save-onto-source`, `onnx-too-large`, `disk-full`, `not-writable`, `duplicate-name`
 */
export function writeOnnxFile(file: string, traced: Traced, options: WriteOnnxOptions = {}): WrittenOnnx {
  const dataFile = options.dataFile ?? `${file}.data`;
  const live = reachable(Object.values(traced.outputs));
  const variables = [...traced.graph.variables].filter(([, { node }]) => live.has(node)).map(([variable]) => variable);
  refuseSources([file, dataFile], variables);
  const total = variables.reduce((n, v) => n + byteLengthOf(v, (v.frozen && v.constantDtype) || v.dtype), 0);
  const placed: { variable: Variable; dtype: DType; offset: number }[] = [];
  let end = 0;
  const place = (variable: Variable, dtype: DType) => {
    const byteLength = byteLengthOf(variable, dtype);
    if (byteLength < leastExternal) return undefined;
    const offset = Math.ceil(end / alignment) * alignment;
    placed.push({ variable, dtype, offset });
    end = offset + byteLength;
    return { location: basename(dataFile), offset, byteLength };
  };
  const external = options.external ?? total > externalFrom;
  if (!external && total > maxModelBytes)
    throw new EspalierError(
      "onnx-too-large",
      `${file}: ${total} bytes of weights do not fit into an .onnx file (${maxModelBytes} at most). Let them be external.`,
    );
  const { bytes } = encode(traced, {
    provider: options.provider ?? "onnx",
    standalone: true,
    values: (variable, dtype) => readStorage(variable.storage, dtype),
    ...(external && { external: place }),
  });
  if (placed.length > 0) writeFileAtomically(dataFile, (append) => writeWeights(placed, append));
  writeFileAtomically(file, (append) => append(bytes));
  return { file, byteLength: bytes.length, data: placed.length > 0 ? { file: dataFile, byteLength: end } : undefined };
}

const byteLengthOf = (variable: Variable, dtype: DType): number => elementCount(variable.shape) * dtypeSize[dtype];

function writeWeights(placed: readonly { variable: Variable; dtype: DType; offset: number }[], append: (bytes: Uint8Array) => void): void {
  let done = 0;
  for (const { variable, dtype, offset } of placed) {
    append(new Uint8Array(offset - done));
    done = offset;
    streamStorage(variable.storage, dtype, (part) => {
      append(part);
      done += part.length;
    });
  }
}

/** A model whose weights are mapped from a file must not replace that file. */
function refuseSources(targets: readonly string[], variables: readonly Variable[]): void {
  const existing = new Set(targets.filter((file) => existsSync(file)).map((file) => realpathSync(file)));
  const source = variables.map((v) => fileOf(v.storage)).find((file) => file !== undefined && existing.has(resolve(file)));
  if (source !== undefined)
    throw new EspalierError(
      "save-onto-source",
      `${source}: the model's weights are mapped from this file, which saving here would replace. Choose another name.`,
    );
}

const fileOf = (storage: Storage): string | undefined =>
  storage.kind === "converted" ? fileOf(storage.of) : storage.kind === "file" ? storage.file : undefined;
