import { EspalierError } from "../graph/index.ts";
import { Embedding, floats, Linear, type Module, zeros } from "../nn/index.ts";
import { readStorage } from "../runtime/stored-values.ts";
import type { CausalLM } from "./causal-lm.ts";

/**
 * Gives a language model room for `size` tokens, as after tokens were added to its tokenizer: the embedding, and the head where it is one of its
 * own, get or lose rows at the end. Each new row is the mean of the old ones, so that a new token is at first as likely as an average one and disturbs
 * the others little. Put adapters on afterwards.
 *
 * @throws EspalierError `bad-option`, `already-adapted`
 */
export function resizeTokenEmbeddings(model: CausalLM, size: number): void {
  if (!Number.isInteger(size) || size < 1)
    throw new EspalierError("bad-option", `An embedding of ${size} tokens cannot be made: give a whole number.`);
  const { embedding } = model.decoder;
  const { head, headPath } = model;
  const { path } = embedding;
  if (!(embedding instanceof Embedding) || (head && !(head instanceof Linear)))
    throw new EspalierError(
      "already-adapted",
      `The embedding or the head of the model carries an adapter or is quantised. Resize it first.`,
    );
  const [vocabulary, width] = embedding.weight.shape as [number, number];
  if (size === vocabulary) return;
  const table = new Embedding(size, width, { init: zeros, scale: embedding.scale });
  table.weight.storage = floats([size, width], resized(valuesOf(embedding), vocabulary, size));
  put(model, path, table, embedding);
  if (head instanceof Linear) {
    if (head.layout !== "out-in") throw new EspalierError("bad-option", `The head "${headPath}" lies as [in, out] and is not resized.`);
    const larger = new Linear(width, size, { init: zeros, bias: head.bias !== undefined });
    larger.weight.storage = floats([size, width], resized(valuesOf(head), vocabulary, size));
    if (head.bias && larger.bias)
      larger.bias.storage = floats([size], resized(readStorage(head.bias.storage, "float32") as Float32Array, vocabulary, size));
    put(model, headPath, larger, head);
  }
  model.assignNames();
  model.config.vocab_size = size;
}

const valuesOf = ({ weight }: Embedding | Linear) => readStorage(weight.storage, "float32") as Float32Array;

function put(model: CausalLM, path: string, replacement: Module, old: Module): void {
  const frozen = old.parameters().every((p) => p.frozen);
  if (frozen) replacement.freeze();
  model.replace(path, replacement);
}

/** Rows [from, …] → [to, …]. */
function resized(rows: Float32Array, from: number, to: number): Float32Array {
  const width = rows.length / from;
  const result = new Float32Array(to * width);
  result.set(rows.subarray(0, Math.min(from, to) * width));
  if (to <= from) return result;
  const mean = new Float64Array(width);
  for (let i = 0; i < rows.length; i++) mean[i % width]! += rows[i]! / from;
  for (let row = from; row < to; row++) result.set(mean, row * width);
  return result;
}
