/**
 * Parameters in GGUF and in Hugging Face checkpoints.
 *
 * In the architecture "llama", llama.cpp rotates neighbouring elements of a query or key head, Hugging Face an element and the one half a head
 * further. So its converter reorders the rows of the two projections, head by head: row 2i + j of a GGUF head is row i + j·(width/2) of a Hugging
 * Face head.
 */
import type { Architecture } from "./architectures.ts";

const whole: readonly (readonly [gguf: string, huggingFace: string])[] = [
  ["token_embd", "model.embed_tokens"],
  ["output_norm", "model.norm"],
  ["output", "lm_head"],
];

const ofBlock: readonly (readonly [gguf: string, huggingFace: string])[] = [
  ["attn_norm", "input_layernorm"],
  ["attn_q", "self_attn.q_proj"],
  ["attn_k", "self_attn.k_proj"],
  ["attn_v", "self_attn.v_proj"],
  ["attn_q_norm", "self_attn.q_norm"],
  ["attn_k_norm", "self_attn.k_norm"],
  ["attn_output", "self_attn.o_proj"],
  ["ffn_norm", "post_attention_layernorm"],
  ["ffn_gate", "mlp.gate_proj"],
  ["ffn_up", "mlp.up_proj"],
  ["ffn_down", "mlp.down_proj"],
];

const fromGguf = new Map([...whole, ...ofBlock]);
const toGguf = new Map([...fromGguf].map(([gguf, huggingFace]) => [huggingFace, gguf]));

/** `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`; an unknown name stays as it is, to be reported as such. */
export function huggingFaceName(name: string): string {
  const match = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name);
  const path = match && fromGguf.get(match[2]!);
  if (!path || (match[1] === undefined) !== whole.some(([gguf]) => gguf === match[2])) return name;
  return `${match[1] === undefined ? "" : `model.layers.${match[1]}.`}${path}.${match[3]}`;
}

/** `model.layers.3.self_attn.q_proj` → `blk.3.attn_q`; `undefined` where GGUF has no such module. */
export function ggufModule(path: string): string | undefined {
  const match = /^model\.layers\.(\d+)\.(.+)$/.exec(path);
  const part = toGguf.get(match ? match[2]! : path);
  if (part === undefined || (match === null) !== whole.some(([gguf]) => gguf === part)) return undefined;
  return match ? `blk.${match[1]}.${part}` : part;
}

export interface HeadCounts {
  query: number;
  key: number;
}

/** The number of heads whose rows a parameter holds in llama.cpp's order; `undefined` for one that is the same in both. */
export function reorderedHeads({ reordered }: Architecture, ggufName: string, heads: HeadCounts): number | undefined {
  if (!reordered) return undefined;
  if (/^blk\.\d+\.attn_q\./.test(ggufName)) return heads.query;
  if (/^blk\.\d+\.attn_k\./.test(ggufName)) return heads.key;
  return undefined;
}

type Rows = Float32Array | Uint16Array;

/** Rows in llama.cpp's order → rows in Hugging Face's: `heads` heads of equal width, rows of equal length. */
export function fromLlamaCppOrder<T extends Rows>(values: T, rows: number, heads: number): T {
  const out = values.slice() as T;
  eachRow(values, rows, heads, (paired, halved, length) => out.set(values.subarray(paired, paired + length), halved));
  return out;
}

/** The inverse of {@link fromLlamaCppOrder}. */
export function toLlamaCppOrder<T extends Rows>(values: T, rows: number, heads: number): T {
  const out = values.slice() as T;
  eachRow(values, rows, heads, (paired, halved, length) => out.set(values.subarray(halved, halved + length), paired));
  return out;
}

/** Where each row starts with neighbours as pairs (llama.cpp) and with the halves of a head as pairs (Hugging Face). */
function eachRow(values: Rows, rows: number, heads: number, visit: (paired: number, halved: number, length: number) => void): void {
  const width = rows / heads;
  const length = values.length / rows;
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < width; row++) {
      const halved = row % 2 === 0 ? row / 2 : (row - 1 + width) / 2;
      visit((head * width + row) * length, (head * width + halved) * length, length);
    }
}
