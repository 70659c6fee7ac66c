import { addDims, symbol, type Tensor, type TensorType, type Traced, trace } from "../graph/index.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { KeyValues } from "../nn/index.ts";
import {
  concat,
  dimension,
  greaterOrEqual,
  less,
  lessOrEqual,
  logicalAnd,
  logicalOr,
  maximum,
  range,
  reshape,
  slice,
  sub,
  unsqueeze,
} from "../ops/index.ts";

const [batch, time, past] = [symbol("batch"), symbol("time"), symbol("past")];
const int64 = (...shape: TensorType["shape"]): TensorType => ({ dtype: "int64", shape });

/** Inputs that the cache is fed as: `past.<layer>.key` and `past.<layer>.value`. */
export const pastNames = (layers: number): string[] =>
  Array.from({ length: layers }, (_, i) => [`past.${i}.key`, `past.${i}.value`]).flat();

/**
 * Reads whole prompts. Rows are padded on the left, so that every row's next token has one column.
 * ids [batch, time], start [batch] (each row's first column that is a token) → logits [batch, vocabulary] of the last column, and `present`:
 * the keys and values of all layers one after the other, [layers·2·batch, kvHeads, time, width].
 */
export function tracePrefill(model: CausalLM): { traced: Traced; cache: CacheShape } {
  let layers = 0;
  const traced = trace({ ids: int64(batch, time), start: int64(batch) }, ({ ids, start }) => {
    const columns = range(time);
    const first = reshape(start, [batch, 1, 1, 1]);
    const rows = reshape(columns, [time, 1]);
    const visible = logicalAnd(lessOrEqual(columns, rows), greaterOrEqual(columns, first));
    // Columns before the first token have no position; theirs is never looked at, but must exist.
    const positions = maximum(sub(unsqueeze(columns, 0), unsqueeze(start, 1)), 0);
    const { hidden, present } = model.forward({ ids, positions, keyPositions: positions, visible });
    const last = reshape(slice(hidden, 1, -1), [batch, hidden.shape[2]!]);
    layers = present.length;
    return { logits: model.logits(last), present: joined(present) };
  });
  // The model itself says how many keys and values it makes.
  const [, kvHeads, , width] = traced.outputs.present!.shape as [unknown, number, unknown, number];
  return { traced, cache: { layers, kvHeads, width } };
}

/** Of the keys and values that a model makes for each token. */
export interface CacheShape {
  layers: number;
  kvHeads: number;
  width: number;
}

/**
 * One more token per row. ids [batch, 1], start [batch], length [1] (columns so far) and the cache, of which columns from `length` on hold
 * nothing yet → logits [batch, vocabulary], `present` as in {@link tracePrefill}, with one column.
 */
export function traceStep(model: CausalLM, cache: CacheShape): Traced {
  const type: TensorType = { dtype: "float32", shape: [batch, cache.kvHeads, past, cache.width] };
  const caches = Object.fromEntries(pastNames(cache.layers).map((name) => [name, type]));
  const types: Record<string, TensorType> = { ids: int64(batch, 1), start: int64(batch), length: int64(1), ...caches };
  return trace(types, (inputs) => {
    const { ids, start, length } = inputs as Record<"ids" | "start" | "length", Tensor>;
    const columns = range(addDims(past, 1));
    const held = logicalAnd(greaterOrEqual(columns, reshape(start, [batch, 1, 1, 1])), less(columns, length));
    const own = greaterOrEqual(columns, dimension(past));
    const positions = unsqueeze(sub(length, start), 1);
    // The new token stands in the last column, wherever the cache ends.
    const keyPositions = concat([maximum(sub(unsqueeze(range(past), 0), unsqueeze(start, 1)), 0), positions], 1);
    const layers = Array.from({ length: cache.layers }, (_, i) => ({ key: inputs[`past.${i}.key`]!, value: inputs[`past.${i}.value`]! }));
    const { hidden, present } = model.forward({ ids, positions, keyPositions, visible: logicalOr(held, own), past: layers });
    return { logits: model.logits(reshape(hidden, [batch, hidden.shape[2]!])), present: joined(present) };
  });
}

export const joined = (present: readonly KeyValues[]): Tensor =>
  concat(
    present.flatMap(({ key, value }) => [key, value]),
    0,
  );
