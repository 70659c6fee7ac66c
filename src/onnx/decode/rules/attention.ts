/** Attention as one operator: ONNX Runtime's fused ones, in which a file holds whole layers, and ONNX's own of opset 23. */
import { type Dim, divDims, formatShape, mulDims, subDims, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import { agree, agreeToBroadcast } from "../agreement.ts";
import type { NodeContext, Result, Rules } from "../context.ts";
import { product } from "./matmul.ts";
import { rotated } from "./rotary.ts";

/** [batch, time, heads·width] → [batch, heads, time, width]. */
export function toHeads(n: NodeContext, x: Tensor, heads: number): Tensor {
  if (x.rank === 4) return x;
  const [batch, time, all] = x.shape as [Dim, Dim, Dim];
  const width = divDims(all, heads);
  if (x.rank !== 3 || width === undefined) throw n.fail(`${formatShape(x.shape)} cannot be divided into ${heads} heads`);
  return ops.transpose(ops.reshape(x, [batch, time, heads, width]), [0, 2, 1, 3]);
}

/** [batch, heads, time, width] → [batch, time, heads·width]. */
function fromHeads(x: Tensor): Tensor {
  const [batch, heads, time, width] = x.shape as [Dim, Dim, Dim, Dim];
  return ops.reshape(ops.transpose(x, [0, 2, 1, 3]), [batch, time, mulDims(heads, width)]);
}

/** Keys or values of the past, then the new ones, along time. An empty past adds nothing. */
function withPast(past: Tensor | undefined, x: Tensor): Tensor {
  if (!past || past.shape[2] === 0) return x;
  agree(past.shape[0]!, x.shape[0]!);
  return ops.concat([past, x], 2);
}

interface Visibility {
  queries: Dim;
  keys: Dim;
  causal: boolean;
  /** Keys further back than this are hidden; undefined: none. */
  window?: number | undefined;
}

/** The mask [queries, keys] of what follows from places alone; the queries are the last of the keys. */
function placeMask({ queries, keys, causal, window }: Visibility): Tensor | undefined {
  if (!causal && window === undefined) return undefined;
  const rows = ops.unsqueeze(ops.range(queries, subDims(keys, queries)), 1);
  const columns = ops.unsqueeze(ops.range(keys), 0);
  const seen = causal ? ops.lessOrEqual(columns, rows) : undefined;
  const near = window === undefined ? undefined : ops.greater(ops.add(columns, window), rows);
  const visible = seen && near ? ops.logicalAnd(seen, near) : (seen ?? near)!;
  return ops.where(visible, ops.fill([], 0), ops.hiddenScore);
}

/** What is added to the scores where a mask of 0 and 1 says 0. */
const hide = (visible: Tensor, by: number): Tensor => ops.where(visible, ops.fill([], 0), by);

const together = (masks: readonly (Tensor | undefined)[]): Tensor | undefined => {
  const present = masks.filter((m) => m !== undefined);
  return present.length === 0 ? undefined : present.reduce((a, b) => ops.add(a, b));
};

/**
 * A mask over keys as ONNX Runtime takes it: lengths [batch] of right-padded rows, 0 and 1 for each key [batch, keys], or for each query and key
 * [batch, queries, keys].
 */
function keyMask(n: NodeContext, mask: Tensor | undefined, batch: Dim, keys: Dim): Tensor | undefined {
  if (!mask) return undefined;
  const by = n.float("mask_filter_value", -10000);
  if (mask.rank === 1) {
    agree(batch, mask.shape[0]!);
    const columns = ops.reshape(ops.range(keys), [1, 1, 1, keys]);
    return hide(ops.less(columns, ops.reshape(ops.cast(mask, "int64"), [batch, 1, 1, 1])), by);
  }
  agree(keys, mask.shape.at(-1)!);
  const shown = ops.logicalNot(ops.equal(ops.cast(mask, "int64"), 0));
  if (mask.rank === 2) return hide(ops.reshape(shown, [mask.shape[0]!, 1, 1, mask.shape[1]!]), by);
  if (mask.rank === 3) return hide(ops.unsqueeze(shown, 1), by);
  throw n.fail(`a mask of shape ${formatShape(mask.shape)} is not supported`);
}

/** Scores that a file's own mask adds, with sizes that fit [batch, heads, queries, keys]. */
function scoreBias(bias: Tensor | undefined, full: readonly Dim[]): Tensor | undefined {
  if (!bias) return undefined;
  agreeToBroadcast(bias.shape, full);
  return bias;
}

const scaleOf = (n: NodeContext): number | undefined => n.float("scale", 0) || undefined;

/** A present of both keys and values in one tensor [2, batch, heads, time, width]. */
const stacked = (k: Tensor, v: Tensor): Tensor => ops.stack([k, v], 0);

/** `Attention` of com.microsoft: one weight [hidden, 3·hidden] makes queries, keys and values. */
function fusedAttention(n: NodeContext): readonly Result[] {
  const x = n.tensor(0);
  const heads = n.int("num_heads", 1);
  const bias = n.optional(2);
  const projected = n.layer ? n.layer(x) : withBias(product(x, n.tensor(1)), bias);
  const width = projected.shape.at(-1) as number;
  const sizes = n.ints("qkv_hidden_sizes") ?? [width / 3, width / 3, width / 3];
  if (n.int("do_rotary", 0) === 1) throw n.fail("rotary embeddings within Attention (do_rotary) are not supported");
  const [q, k, v] = ops.split(projected, sizes, 2).map((t) => toHeads(n, t, heads)) as [Tensor, Tensor, Tensor];
  const past = n.optional(4);
  const pastOf = (i: number) => past && ops.squeeze(ops.slice(past, 0, i, i + 1), 0);
  const [keys, values] = [withPast(pastOf(0), k), withPast(pastOf(1), v)];
  const [batch, queries, length] = [q.shape[0]!, q.shape[2]!, keys.shape[2]!];
  const mask = together([
    keyMask(n, n.optional(3), batch, length),
    placeMask({ queries, keys: length, causal: n.int("unidirectional", 0) === 1 }),
    scoreBias(n.optional(5), [batch, heads, queries, length]),
  ]);
  const y = ops.attention(q, keys, values, { mask, scale: scaleOf(n) });
  return [fromHeads(y), n.wants(1) ? stacked(keys, values) : undefined];
}

const withBias = (y: Tensor, bias: Tensor | undefined): Tensor => (bias ? ops.add(y, bias) : y);

/** `MultiHeadAttention` of com.microsoft: queries, keys and values come projected. */
function multiHeadAttention(n: NodeContext): readonly Result[] {
  const heads = n.int("num_heads", 1);
  const query = n.tensor(0);
  if (query.rank !== 3) throw n.fail("queries packed with keys and values are not supported");
  const [key, value, bias] = [n.tensor(1), n.tensor(2), n.optional(3)];
  const width = query.shape[2] as number;
  const part = (from: number, to?: number) => bias && ops.slice(bias, 0, from, to);
  const q = toHeads(n, withBias(query, part(0, width)), heads);
  const k = toHeads(n, key.rank === 3 ? withBias(key, part(width, 2 * width)) : key, heads);
  const v = toHeads(n, value.rank === 3 ? withBias(value, part(2 * width)) : value, heads);
  const [keys, values] = [withPast(n.optional(6), k), withPast(n.optional(7), v)];
  const [batch, queries, length] = [q.shape[0]!, q.shape[2]!, keys.shape[2]!];
  const mask = together([
    keyMask(n, n.optional(4), batch, length),
    placeMask({ queries, keys: length, causal: n.int("unidirectional", 0) === 1 }),
    scoreBias(n.optional(5), [batch, heads, queries, length]),
  ]);
  const y = ops.attention(q, keys, values, { mask, scale: scaleOf(n) });
  return [fromHeads(y), n.wants(1) ? keys : undefined, n.wants(2) ? values : undefined];
}

/**
 * `GroupQueryAttention` of com.microsoft, causal, with rotary embeddings and a cache inside. New tokens follow the whole past, so all rows of a batch
 * have one past length; padding stands on the right, where no real token sees it, and its own outputs mean nothing.
 */
function groupQueryAttention(n: NodeContext): readonly Result[] {
  const [heads, kvHeads] = [n.int("num_heads", 1), n.int("kv_num_heads", 1)];
  if (n.int("smooth_softmax", 0) === 1 || n.inputs[11]) throw n.fail("a softmax with a sink (smooth_softmax, head_sink) is not supported");
  const [query, key, value] = unpacked(n, heads, kvHeads);
  const [q, k, v] = [toHeads(n, query, heads), toHeads(n, key, kvHeads), toHeads(n, value, kvHeads)];
  const past = n.optional(3);
  const [batch, queries] = [q.shape[0]!, q.shape[2]!];
  const before: Dim = past?.shape[2] ?? 0;
  const turned = (t: Tensor): Tensor => {
    if (n.int("do_rotary", 0) !== 1) return t;
    const given = n.optional(9);
    const positions = given
      ? ops.cast(given, "int64")
      : ops.expand(ops.reshape(ops.range(queries, before), [1, queries]), [batch, queries]);
    return rotated(n, t, { cos: n.tensor(7), sin: n.tensor(8), positions, interleaved: n.int("rotary_interleaved", 0) === 1 });
  };
  const keys = withPast(past, turned(k));
  const values = withPast(n.optional(4), v);
  const length = keys.shape[2]!;
  const window = n.int("local_window_size", -1);
  const mask = together([
    placeMask({ queries, keys: length, causal: true, ...(window > 0 && { window }) }),
    scoreBias(n.optional(10), [batch, heads, queries, length]),
  ]);
  const softcap = n.float("softcap", 0) || undefined;
  const y = ops.attention(turned(q), keys, values, { mask, scale: scaleOf(n), softcap });
  return [fromHeads(y), n.wants(1) ? keys : undefined, n.wants(2) ? values : undefined];
}

/** Queries, keys and values, which may come in one tensor. */
function unpacked(n: NodeContext, heads: number, kvHeads: number): readonly [Tensor, Tensor, Tensor] {
  const query = n.tensor(0);
  const [key, value] = [n.optional(1), n.optional(2)];
  if (key && value) return [query, key, value];
  const width = divDims(query.shape.at(-1)!, heads + 2 * kvHeads);
  if (typeof width !== "number") throw n.fail(`${formatShape(query.shape)} does not hold ${heads} + 2·${kvHeads} heads`);
  return ops.split(query, [heads * width, kvHeads * width, kvHeads * width], 2) as [Tensor, Tensor, Tensor];
}

/** `Attention` of ONNX's own set, since opset 23. */
function attention(n: NodeContext): readonly Result[] {
  const [query, key, value] = [n.tensor(0), n.tensor(1), n.tensor(2)];
  const heads = n.int("q_num_heads") ?? (query.shape[1] as number);
  const kvHeads = n.int("kv_num_heads") ?? (key.shape[1] as number);
  if (n.wants(3)) throw n.fail("the scores as an output (qk_matmul_output) are not supported");
  const q = toHeads(n, query, heads);
  const [k, v] = [toHeads(n, key, kvHeads), toHeads(n, value, kvHeads)];
  const [keys, values] = [withPast(n.optional(4), k), withPast(n.optional(5), v)];
  const [batch, queries, length] = [q.shape[0]!, q.shape[2]!, keys.shape[2]!];
  const given = n.optional(3);
  const mask = together([
    scoreBias(given?.dtype === "bool" ? hide(given, ops.hiddenScore) : given, [batch, heads, queries, length]),
    placeMask({ queries, keys: length, causal: n.int("is_causal", 0) === 1 }),
  ]);
  const softcap = n.float("softcap", 0) || undefined;
  const y = ops.attention(q, keys, values, { mask, scale: scaleOf(n), softcap });
  return [query.rank === 3 ? fromHeads(y) : y, n.wants(1) ? keys : undefined, n.wants(2) ? values : undefined];
}

/** `RotaryEmbedding` of com.microsoft: positions [batch, time], or one number that all rows begin at. */
function rotaryEmbedding(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const [cos, sin] = [n.tensor(2), n.tensor(3)];
  const width = n.int("rotary_embedding_dim", 0) || 2 * (cos.shape[1] as number);
  const heads = n.int("num_heads", 0) || (x.rank === 4 ? (x.shape[1] as number) : (x.shape[2] as number) / width);
  const split = toHeads(n, x, heads);
  const given = ops.cast(n.tensor(1), "int64");
  const [batch, time] = [split.shape[0]!, split.shape[2]!];
  const positions = given.rank === 2 ? given : ops.expand(ops.reshape(ops.add(ops.range(time), given), [1, time]), [batch, time]);
  const y = rotated(n, split, { cos, sin, positions, interleaved: n.int("interleaved", 0) === 1 });
  return x.rank === 4 ? y : fromHeads(y);
}

/** `RotaryEmbedding` of ONNX's own set, since opset 23: tables by position, or cos and sin [batch, time, half] themselves. */
function onnxRotaryEmbedding(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const split = toHeads(n, x, n.int("num_heads", 0) || (x.shape[1] as number));
  const positions = n.optional(3);
  const y = rotated(n, split, {
    cos: n.tensor(1),
    sin: n.tensor(2),
    ...(positions && { positions: ops.cast(positions, "int64") }),
    interleaved: n.int("interleaved", 0) === 1,
  });
  return x.rank === 4 ? y : fromHeads(y);
}

export const attentions: Rules = {
  Attention: attention,
  RotaryEmbedding: onnxRotaryEmbedding,
  "com.microsoft.Attention": fusedAttention,
  "com.microsoft.MultiHeadAttention": multiHeadAttention,
  "com.microsoft.GroupQueryAttention": groupQueryAttention,
  "com.microsoft.RotaryEmbedding": rotaryEmbedding,
};
