/** Encoder–decoders as two graphs, with the names of transformers' exports: `encoder_model` and `decoder_model_merged`. */
import { addDims, type Dim, type Shape, symbol, type Tensor, type TensorType, type Traced, trace } from "../../graph/index.ts";
import { joinKeyValues, type KeyValues } from "../../nn/index.ts";
import { concat, expand, lessOrEqual, range, reshape, slice, unsqueeze } from "../../ops/index.ts";
import { type SpectrogramSource, WhisperForConditionalGeneration } from "../families/whisper.ts";
import { Seq2SeqLM, type TextSource } from "../seq2seq.ts";

/** Encoder–decoders that have graphs for other runtimes. */
export type ExportableSeq2Seq = Seq2SeqLM<TextSource> | WhisperForConditionalGeneration;

export const isSeq2Seq = (model: object): model is ExportableSeq2Seq => model instanceof Seq2SeqLM;

const batch = symbol("batch_size");
const source = symbol("encoder_sequence_length");
const time = symbol("decoder_sequence_length");
const past = symbol("past_decoder_sequence_length");
const known = symbol("past_encoder_sequence_length");
const int64 = (...shape: Shape): TensorType => ({ dtype: "int64", shape });
const float32 = (...shape: Shape): TensorType => ({ dtype: "float32", shape });

export const seq2seqGraphs = (model: ExportableSeq2Seq): Record<string, Traced> => {
  const encoder = encoderGraph(model);
  return { encoder_model: encoder, decoder_model_merged: decoderGraph(model, encoder.outputs.last_hidden_state!.shape) };
};

/** `input_ids` and `attention_mask`, or `input_features` → `last_hidden_state`. */
function encoderGraph(model: ExportableSeq2Seq): Traced {
  if (model instanceof WhisperForConditionalGeneration) {
    const { num_mel_bins: bins, max_source_positions: places } = model.config;
    return trace({ input_features: float32(batch, bins, 2 * places) }, ({ input_features: features }) => ({
      last_hidden_state: model.states({ features } satisfies SpectrogramSource),
    }));
  }
  return trace({ input_ids: int64(batch, source), attention_mask: int64(batch, source) }, ({ input_ids: ids, attention_mask }) => ({
    last_hidden_state: model.states({ ids, attentionMask: attention_mask }),
  }));
}

type Side = "encoder" | "decoder";
const nameOf = (which: string, layer: number, side: Side, part: "key" | "value") => `${which}.${layer}.${side}.${part}`;
const namesOf = (which: string, layer: number, side: Side) => ({
  key: nameOf(which, layer, side, "key"),
  value: nameOf(which, layer, side, "value"),
});

/**
 * `input_ids` of the answer, `encoder_attention_mask` where sources have padding, `encoder_hidden_states`, and `past_key_values.N.decoder.key`, `….value`,
 * `….encoder.key`, `….encoder.value` → `logits` and `present.N.…`. Of the encoder's states, keys and values are computed for those that the past does not
 * hold: all at the first token, whose past is empty, and none later. So no switch (`use_cache_branch`) is needed.
 */
function decoderGraph(model: ExportableSeq2Seq, states: Shape): Traced {
  const masked = !(model instanceof WhisperForConditionalGeneration);
  const [, places, width] = states as [Dim, Dim, number];
  const types: Record<string, TensorType> = {
    ...(masked && { encoder_attention_mask: int64(batch, source) }),
    input_ids: int64(batch, time),
    encoder_hidden_states: float32(batch, places, width),
  };
  const layers = headsOf(model, states);
  for (const [i, [own, cross]] of layers.entries())
    for (const [side, length, kv] of [
      ["decoder", past, own],
      ["encoder", known, cross],
    ] as const) {
      const { key, value } = namesOf("past_key_values", i, side);
      types[key] = float32(batch, kv.key.shape[1]!, length, kv.key.shape[3]!);
      types[value] = float32(batch, kv.value.shape[1]!, length, kv.value.shape[3]!);
    }
  return trace(types, (inputs) => {
    const { input_ids: ids, encoder_hidden_states, encoder_attention_mask: attentionMask } = inputs as Record<string, Tensor>;
    const held = (side: Side) =>
      layers.map((_, i): KeyValues => {
        const { key, value } = namesOf("past_key_values", i, side);
        return { key: inputs[key]!, value: inputs[value]! };
      });
    const fresh = model.keyValues(slice(encoder_hidden_states!, 1, known, places));
    const keyValues = held("encoder").map(({ key, value }, i) => ({
      key: concat([key, fresh[i]!.key], 2),
      value: concat([value, fresh[i]!.value], 2),
    }));
    const mask = attentionMask && (model as Seq2SeqLM<TextSource>).sourceMask({ ids: attentionMask, attentionMask });
    const keys = addDims(past, time);
    const columns = expand(unsqueeze(range(keys), 0), [batch, keys]);
    const own = held("decoder");
    const { hidden, present } = model.decode(
      {
        ids: ids!,
        positions: expand(unsqueeze(range(time, past), 0), [batch, time]),
        keyPositions: columns,
        visible: lessOrEqual(range(keys), reshape(range(time, past), [time, 1])),
        past: own,
        joinPast: true,
      },
      { keyValues, mask },
    );
    const outputs: Record<string, Tensor> = { logits: model.logits(hidden) };
    for (const [i, kv] of present.entries()) {
      const joined = joinKeyValues(own[i]!, kv);
      for (const part of ["key", "value"] as const) {
        outputs[nameOf("present", i, "decoder", part)] = joined[part];
        outputs[nameOf("present", i, "encoder", part)] = keyValues[i]![part];
      }
    }
    return outputs;
  });
}

/** Keys and values that the layers make, of their own tokens and of the encoder's states: the model itself says how many and how wide. */
function headsOf(model: ExportableSeq2Seq, states: Shape): [own: KeyValues, cross: KeyValues][] {
  let layers: [KeyValues, KeyValues][] = [];
  trace({ ids: int64(batch, time), states: float32(...states) }, ({ ids, states: hidden }) => {
    const keyValues = model.keyValues(hidden);
    layers = model.decode({ ids }, { keyValues }).present.map((own, i) => [own, keyValues[i]!]);
    return { ids };
  });
  return layers;
}
