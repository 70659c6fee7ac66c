/** Models as graphs for other runtimes: inputs and outputs have the names and types that transformers' exports give them. */
import {
  addDims,
  type Dim,
  EspalierError,
  reachable,
  type Shape,
  symbol,
  type Tensor,
  type TensorType,
  type Traced,
  trace,
} from "../../graph/index.ts";
import { joinKeyValues } from "../../nn/index.ts";
import { add, cumSum, greaterOrEqual, lessOrEqual, logicalAnd, max, range, reshape, slice, sub, sum, where } from "../../ops/index.ts";
import { CausalLM, SequenceClassifier } from "../causal-lm.ts";
import { ImageClassifier, ImageModel } from "../image-model.ts";
import type { PatchConfig } from "../patch-embedding.ts";
import { EncoderForSequenceClassification, type EncoderInputs, MaskedLM, SentenceEncoder, TokenClassifier } from "../text-encoder.ts";
import { type ExportableSeq2Seq, isSeq2Seq, seq2seqGraphs } from "./seq2seq-graphs.ts";

/** Models that have a graph for other runtimes. */
export type ExportableModel =
  | CausalLM
  | SequenceClassifier
  | TokenClassifier
  | MaskedLM
  | SentenceEncoder
  | ExportableSeq2Seq
  | ImageModel
  | ImageClassifier;

const classes = [CausalLM, SequenceClassifier, TokenClassifier, MaskedLM, SentenceEncoder, ImageModel, ImageClassifier];

export const isExportable = (model: object): model is ExportableModel =>
  isSeq2Seq(model) || classes.some((exported) => model instanceof exported);

const batch = symbol("batch_size");
const time = symbol("sequence_length");
const past = symbol("past_sequence_length");
const int64 = (...shape: Shape): TensorType => ({ dtype: "int64", shape });

/** The graphs of a model, by the name of their file. */
export function exportGraphs(model: ExportableModel): Record<string, Traced> {
  if (isSeq2Seq(model)) return seq2seqGraphs(model);
  if (model instanceof ImageModel || model instanceof ImageClassifier) return { model: imageGraph(model) };
  if (model instanceof CausalLM) return { model: decoderGraph(model) };
  return { model: model instanceof SequenceClassifier ? classifierGraph(model) : encoderGraph(model) };
}

/**
 * A decoder: `input_ids`, `attention_mask` (of the past too), `position_ids` and `past_key_values.N.key` and `.value` → `logits` of every token, and
 * `present.N.key` and `.value`, which hold the past and these tokens. Without a past, whose length is then 0, it reads a prompt; with one token it is a step.
 * Padding may stand anywhere that `attention_mask` is 0.
 */
function decoderGraph(model: CausalLM): Traced {
  if (model.decoder.virtualTokens > 0)
    throw new EspalierError(
      "not-exportable",
      `The model has ${model.decoder.virtualTokens} virtual tokens before every text (prompt, prefix or P-tuning). Programs that run exported graphs know nothing of them, and would count positions wrongly.`,
    );
  const caches = cacheTypes(model);
  const names = (side: string, i: number) => ({ key: `${side}.${i}.key`, value: `${side}.${i}.value` });
  const types: Record<string, TensorType> = {
    input_ids: int64(batch, time),
    attention_mask: int64(batch, addDims(past, time)),
    position_ids: int64(batch, time),
  };
  for (const [i, { key, value }] of caches.entries())
    Object.assign(types, { [names("past_key_values", i).key]: key, [names("past_key_values", i).value]: value });
  return trace(types, (inputs) => {
    const {
      input_ids: ids,
      attention_mask,
      position_ids: positions,
    } = inputs as Record<string, Tensor> & { input_ids: Tensor; attention_mask: Tensor; position_ids: Tensor };
    const held = caches.map((_, i) => ({
      key: inputs[names("past_key_values", i).key]!,
      value: inputs[names("past_key_values", i).value]!,
    }));
    const keyPositions = keyPlaces(attention_mask, positions);
    const { hidden, present } = model.forward({
      ids,
      positions,
      keyPositions,
      visible: visibleTo(attention_mask),
      past: held,
      joinPast: true,
    });
    const outputs: Record<string, Tensor> = { logits: model.logits(hidden) };
    for (const [i, own] of present.entries()) {
      const { key, value } = joinKeyValues(held[i]!, own);
      Object.assign(outputs, { [names("present", i).key]: key, [names("present", i).value]: value });
    }
    return outputs;
  });
}

/** Types of the keys and values of each layer. The model itself says how many it makes. */
function cacheTypes(model: CausalLM): { key: TensorType; value: TensorType }[] {
  const types: { key: TensorType; value: TensorType }[] = [];
  const typeOf = ({ dtype, shape: [, heads, , width] }: Tensor): TensorType => ({ dtype, shape: [batch, heads!, past, width!] });
  trace({ ids: int64(batch, time) }, ({ ids }) => {
    for (const { key, value } of model.forward({ ids }).present) types.push({ key: typeOf(key), value: typeOf(value) });
    return { ids };
  });
  return types;
}

/** bool [batch, 1, time, keys]: tokens up to a token's own column. */
function visibleTo(attentionMask: Tensor): Tensor {
  const [, keys] = attentionMask.shape as [Dim, Dim];
  const isToken = greaterOrEqual(reshape(attentionMask, [batch, 1, 1, keys]), 1);
  return logicalAnd(isToken, lessOrEqual(range(keys), reshape(range(time, past), [time, 1])));
}

/**
 * int64 [batch, keys]: the place of each key, counted as `positions` count. They may start anywhere (transformers.js counts Gemma's from 1): what windows
 * and biases need is the distance.
 */
function keyPlaces(attentionMask: Tensor, positions: Tensor): Tensor {
  const places = cumSum(attentionMask, 1);
  const own = greaterOrEqual(slice(attentionMask, 1, past), 1);
  const start = max(where(own, sub(positions, slice(places, 1, past)), -(2 ** 31)), 1, { keepDims: true });
  return add(places, start);
}

/** A classifier of sequences: `logits` [batch, labels]. */
function classifierGraph(model: SequenceClassifier): Traced {
  if (model instanceof EncoderForSequenceClassification) return withTokenTypes(model, (inputs) => ({ logits: model.classify(inputs) }));
  const types = { input_ids: int64(batch, time), attention_mask: int64(batch, time) };
  return trace(types, ({ input_ids, attention_mask }) => ({ logits: model.forward(input_ids, sum(attention_mask, 1)) }));
}

/** An encoder: `logits` of every token with a head, else `last_hidden_state`, and `sentence_embedding` as its pooling says. */
function encoderGraph(model: TokenClassifier | MaskedLM | SentenceEncoder): Traced {
  return withTokenTypes(model, (inputs): Record<string, Tensor> => {
    if (model instanceof TokenClassifier) return { logits: model.forward(inputs) };
    if (model instanceof MaskedLM) return { logits: model.logits(model.forward(inputs).hidden) };
    const encoded = model.encoder.forward(inputs);
    return { last_hidden_state: encoded.hidden, sentence_embedding: model.embed(encoded, inputs.attentionMask) };
  });
}

/** `pixel_values` [batch, channels, height, width], of the size that the configuration says → `logits`, or `last_hidden_state` without a head. */
function imageGraph(model: ImageModel | ImageClassifier): Traced {
  const { image_size: size, num_channels: channels } = model.config as unknown as PatchConfig;
  const [height, width] = typeof size === "number" ? [size, size] : size;
  return trace(
    { pixel_values: { dtype: "float32", shape: [batch, channels, height, width] } },
    ({ pixel_values }): Record<string, Tensor> =>
      model instanceof ImageClassifier
        ? { logits: model.forward(pixel_values) }
        : { last_hidden_state: model.forward(pixel_values).hidden },
  );
}

/** With the input `token_type_ids` where the model tells types apart. */
function withTokenTypes(
  model: { config: Readonly<Record<string, unknown>> },
  forward: (inputs: EncoderInputs) => Record<string, Tensor>,
): Traced {
  const types: Record<string, TensorType> = {
    input_ids: int64(batch, time),
    attention_mask: int64(batch, time),
    token_type_ids: int64(batch, time),
  };
  const traced = (which: Record<string, TensorType>) =>
    trace(which, ({ input_ids: ids, attention_mask: attentionMask, token_type_ids: tokenTypes }) =>
      forward({ ids: ids!, attentionMask, tokenTypes }),
    );
  const full = traced(types);
  const typeCount = Number(model.config.type_vocab_size ?? 0);
  const reads = reachable(Object.values(full.outputs)).has(full.graph.inputs.get("token_type_ids")!.node);
  if (typeCount > 1 && reads) return full;
  const { token_type_ids: _, ...without } = types;
  return traced(without);
}
