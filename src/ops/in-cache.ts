import type { Tensor, TensorType } from "../graph/index.ts";
import { elementCount } from "../graph/index.ts";
import { dims, node, type Provider, type Ref } from "./emission.ts";
import { type Given, inRowChunks } from "./row-chunks.ts";

/** Elements of a chunk: 2 MB of float32. A quarter and thrice as many took the same time (measured). */
const chunkElements = 1 << 19;

/**
 * The ONNX nodes of a chain of elementwise operators on tensors of one shape, chunk by chunk. ONNX Runtime's CPU provider computes one operator at a
 * time: of large tensors each is a journey through the memory and needs room for its result; of a chunk, only the first and the last.
 * `fn` is traced once, for one chunk.
 *
 * Undefined where the tensors are small, their size is not known, or the provider gains nothing: the caller then emits the chain itself.
 */
export function inCache(
  inputs: Readonly<Record<string, Given>>,
  provider: Provider,
  fn: (chunk: Readonly<Record<string, Tensor>>) => readonly Tensor[],
): Ref[] | undefined {
  const { shape } = Object.values(inputs)[0]!.type;
  if ((provider !== "cpu" && provider !== "wasm") || !shape.every((d): d is number => typeof d === "number")) return undefined;
  const count = elementCount(shape);
  if (count < 2 * chunkElements) return undefined;
  // Chunks of one size: to fill up the last one would copy all.
  let chunks = Math.ceil(count / chunkElements);
  while (count % chunks !== 0) chunks++;
  const cut = Object.fromEntries(
    Object.entries(inputs).map(([name, { ref, type }]) => {
      const flat: TensorType = { dtype: type.dtype, shape: [chunks, count / chunks] };
      return [name, { ref: node("Reshape", [ref, dims(flat.shape)]), type: flat }];
    }),
  );
  const { rows } = inRowChunks({ rows: chunks, limit: 1, cut, whole: {}, fn: (chunk) => ({ rows: fn(chunk) }) });
  return rows.map((part) => node("Reshape", [part, dims(shape)]));
}
