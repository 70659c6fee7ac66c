/** A GGUF file as a checkpoint: the configuration and the tensors that its Hugging Face original had. */
import { basename, dirname } from "node:path";
import { EspalierError } from "../../graph/errors.ts";
import type { FileStorage, LazyStorage } from "../../graph/storage.ts";
import { readFully, readStorage, withFile } from "../../runtime/stored-values.ts";
import type { Checkpoint } from "../hf-directory.ts";
import { quoteName } from "../safetensors-header.ts";
import { dequantize } from "./dequantize.ts";
import { type GgmlType, otherTypeNames, readableTypes } from "./ggml-types.ts";
import { GgufFile, type GgufTensor } from "./gguf-file.ts";
import { hfConfig, ropeFactors } from "./hf-config.ts";
import { fromLlamaCppOrder, huggingFaceName, reorderedHeads } from "./hf-names.ts";

export const isGguf = (path: string): boolean => /\.gguf$/i.test(path);

/** Types whose bytes are an array of ours. */
const floatTypes = { F32: "float32", F16: "float16", BF16: "bfloat16" } as const;

/**
 * Opens a model without reading a value. Floats in the right order stay in the file, to be mapped; quantised tensors, and query and key
 * projections (whose rows llama.cpp orders in its own way), are computed one at a time when they are asked for.
 *
 * @throws EspalierError what {@link GgufFile.open} throws, `unsupported-model`, `unsupported-rope`, `checkpoint-dtype`, `checkpoint-shape`
 */
export function openGgufCheckpoint(file: string): Checkpoint {
  const gguf = GgufFile.open(file);
  const { architecture, config } = hfConfig(gguf);
  const heads = { query: config.num_attention_heads as number, key: config.num_key_value_heads as number };
  const tensors: Checkpoint["tensors"] = new Map();
  for (const tensor of gguf.tensors.values()) {
    if (tensor.name === ropeFactors) continue; // its meaning is in the configuration
    tensors.set(huggingFaceName(tensor.name), ggufStorage(gguf, tensor, reorderedHeads(architecture, tensor.name, heads)));
  }
  return { directory: dirname(gguf.path), configFile: file, config, tensors, files: [basename(gguf.path)] };
}

/**
 * The values of one tensor.
 *
 * @param heads of a tensor whose rows are in llama.cpp's order of rotary elements: they are brought into Hugging Face's
 * @throws EspalierError `checkpoint-dtype`, `checkpoint-shape`
 */
export function ggufStorage(gguf: GgufFile, tensor: GgufTensor, heads?: number): FileStorage | LazyStorage {
  const { name, type, shape, offset, byteLength } = tensor;
  if (!type) throw unreadableType(gguf, tensor);
  const rows = shape[0] ?? 1;
  if (heads !== undefined && (heads === 0 || (rows / heads) % 2 !== 0)) {
    throw new EspalierError(
      "checkpoint-shape",
      `${gguf.file}: tensor ${quoteName(name)} has ${rows} rows, which do not divide into ${heads} heads of an even width. The metadata and the tensors are of different models: fetch or convert the file again.`,
    );
  }
  const float = floatTypes[type.name as keyof typeof floatTypes];
  const stored: FileStorage = {
    kind: "file",
    dtype: float ?? "uint8",
    shape: float ? shape : [byteLength],
    file: gguf.path,
    offset,
    byteLength,
  };
  if (float && heads === undefined) return stored;
  const dtype = float ?? "float32";
  const load = () => {
    const values = float ? (readStorage(stored) as Float32Array | Uint16Array) : dequantizeFile(stored, type);
    return heads === undefined ? values : fromLlamaCppOrder(values, rows, heads);
  };
  return { kind: "lazy", dtype, shape, load };
}

/** So many bytes of blocks are in memory at a time. */
const chunkBytes = 1 << 20;

function dequantizeFile(stored: FileStorage, type: GgmlType): Float32Array {
  const values = new Float32Array((stored.byteLength / type.blockBytes) * type.blockSize);
  withFile(stored.file, (descriptor) => {
    const chunk = new Uint8Array(Math.min(stored.byteLength, Math.floor(chunkBytes / type.blockBytes) * type.blockBytes));
    for (let done = 0, written = 0; done < stored.byteLength; done += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, stored.byteLength - done));
      readFully(descriptor, part, stored.offset + done, stored.file);
      const some = dequantize(type, part);
      values.set(some, written);
      written += some.length;
    }
  });
  return values;
}

function unreadableType(gguf: GgufFile, { name, typeCode }: GgufTensor): EspalierError {
  const known = otherTypeNames.get(typeCode);
  const readable = [...readableTypes.values()].map((type) => type.name).join(", ");
  return new EspalierError(
    "checkpoint-dtype",
    `${gguf.file}: tensor ${quoteName(name)} is ${known ?? `of the unknown type ${typeCode}`}, which Espalier does not read. Take the model in another quantisation (${readable}), or convert it with llama.cpp: llama-quantize --allow-requantize <this file> <new file> Q8_0.`,
  );
}
