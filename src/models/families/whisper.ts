/**
 * Whisper (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision"):
 * - the encoder reads a log-mel spectrogram of fixed length (30 seconds in the published models) through two convolutions with gelu, of which the
 *   second halves the frames; its places are sinusoids, stored with the weights
 * - the decoder's places are learned; its embedding serves as the head
 * - both are pre-normalised with LayerNorm, with biases everywhere but on keys
 * - language and task are tokens that begin the answer
 * Dropout is left out. Module and parameter names equal those of Hugging Face checkpoints.
 */
import { z } from "zod";
import { EspalierError, Random, type Tensor } from "../../graph/index.ts";
import {
  type Activation,
  activation,
  activationNames,
  Conv1d,
  DecoderContext,
  type DecoderInputs,
  type DecoderOutputs,
  Embedding,
  type Initializer,
  type KeyValues,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  MultiHeadAttention,
  normal,
} from "../../nn/index.ts";
import { add, gelu, transpose } from "../../ops/index.ts";
import type { Family } from "../family.ts";
import { checkMultiple, layerCount, parseConfig, size } from "../read-config.ts";
import { type Encoded, Seq2SeqLM } from "../seq2seq.ts";

const epsilon = 1e-5;
/** Frames of the spectrogram for each state of the encoder: the stride of the second convolution. */
const stride = 2;

const schema = z.looseObject({
  model_type: z.literal("whisper").default("whisper"),
  vocab_size: size.default(51865),
  num_mel_bins: size.default(80),
  d_model: size.default(384),
  encoder_layers: layerCount.default(4),
  encoder_attention_heads: size.default(6),
  encoder_ffn_dim: size.default(1536),
  decoder_layers: layerCount.default(4),
  decoder_attention_heads: size.default(6),
  decoder_ffn_dim: size.default(1536),
  activation_function: z.enum(activationNames).default("gelu"),
  max_source_positions: size.default(1500),
  max_target_positions: size.default(448),
  decoder_start_token_id: z.int().nonnegative().default(50257),
  init_std: z.number().positive().default(0.02),
  // The official code has neither, and transformers computes only the first of the two ways.
  scale_embedding: z.literal(false).default(false),
  tie_word_embeddings: z.literal(true).default(true),
});

/** The fields of `config.json` that the family reads, under their Hugging Face names. */
export type WhisperConfig = z.output<typeof schema>;

function readConfig(json: unknown, file: string): WhisperConfig {
  const config = parseConfig(schema, json, file);
  checkMultiple(config, "d_model", "encoder_attention_heads", file);
  checkMultiple(config, "d_model", "decoder_attention_heads", file);
  return config;
}

const attention = ({ d_model: hidden }: WhisperConfig, heads: number, init: Initializer) =>
  new MultiHeadAttention(hidden, heads, { init, keyBias: false });

/** What the layers of both sides share: attention to their own tokens, and a feed-forward. */
abstract class WhisperLayer extends Module {
  readonly self_attn: MultiHeadAttention;
  readonly self_attn_layer_norm: LayerNorm;
  readonly fc1: Layer;
  readonly fc2: Layer;
  readonly final_layer_norm: LayerNorm;
  readonly #activation: Activation;

  constructor(config: WhisperConfig, sizes: { heads: number; inner: number }, init: Initializer) {
    super();
    const { d_model: hidden } = config;
    this.self_attn = attention(config, sizes.heads, init);
    this.self_attn_layer_norm = new LayerNorm(hidden, epsilon);
    this.fc1 = new Linear(hidden, sizes.inner, { init, bias: true });
    this.fc2 = new Linear(sizes.inner, hidden, { init, bias: true });
    this.final_layer_norm = new LayerNorm(hidden, epsilon);
    this.#activation = activation(config.activation_function);
  }

  protected feedForward(x: Tensor): Tensor {
    return add(x, this.fc2.forward(this.#activation(this.fc1.forward(this.final_layer_norm.forward(x)))));
  }
}

class WhisperEncoderLayer extends WhisperLayer {
  constructor(config: WhisperConfig, init: Initializer) {
    super(config, { heads: config.encoder_attention_heads, inner: config.encoder_ffn_dim }, init);
  }

  forward(x: Tensor): Tensor {
    return this.feedForward(add(x, this.self_attn.forward(this.self_attn_layer_norm.forward(x))));
  }
}

class WhisperDecoderLayer extends WhisperLayer {
  readonly encoder_attn: MultiHeadAttention;
  readonly encoder_attn_layer_norm: LayerNorm;

  constructor(config: WhisperConfig, init: Initializer) {
    super(config, { heads: config.decoder_attention_heads, inner: config.decoder_ffn_dim }, init);
    this.encoder_attn = attention(config, config.decoder_attention_heads, init);
    this.encoder_attn_layer_norm = new LayerNorm(config.d_model, epsilon);
  }

  forward(x: Tensor, context: DecoderContext, source: KeyValues, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { y, present } = this.self_attn.decode(this.self_attn_layer_norm.forward(x), context, past);
    const attended = add(x, y);
    const crossed = add(attended, this.encoder_attn.forward(this.encoder_attn_layer_norm.forward(attended), [source]));
    return { y: this.feedForward(crossed), present };
  }
}

class WhisperEncoder extends Module {
  readonly conv1: Conv1d;
  readonly conv2: Conv1d;
  readonly embed_positions: Embedding;
  readonly layers: WhisperEncoderLayer[];
  readonly layer_norm: LayerNorm;
  readonly #config: WhisperConfig;

  constructor(config: WhisperConfig, init: Initializer) {
    super();
    const { d_model: hidden } = config;
    this.#config = config;
    this.conv1 = new Conv1d(config.num_mel_bins, hidden, { init, kernel: 3, padding: 1 });
    this.conv2 = new Conv1d(hidden, hidden, { init, kernel: 3, padding: 1, stride });
    this.embed_positions = new Embedding(config.max_source_positions, hidden, { init });
    this.layers = Array.from({ length: config.encoder_layers }, () => new WhisperEncoderLayer(config, init));
    this.layer_norm = new LayerNorm(hidden, epsilon);
  }

  /** features [batch, bins, frames] → states [batch, frames/2, hidden]. */
  forward(features: Tensor): Tensor {
    const { num_mel_bins: bins, max_source_positions: places } = this.#config;
    const [, ownBins, frames] = features.shape;
    if (ownBins !== bins || frames !== stride * places) {
      throw new EspalierError(
        "shape-mismatch",
        `The model hears spectrograms [batch, ${bins}, ${stride * places}], not [${features.shape.join(", ")}]. Make them with the checkpoint's own preprocessor_config.json, which pads every sound to this length.`,
      );
    }
    const x = transpose(gelu(this.conv2.forward(gelu(this.conv1.forward(features)))), [0, 2, 1]);
    const placed = add(x, this.embed_positions.weight.value);
    return this.layer_norm.forward(this.layers.reduce((hidden, layer) => layer.forward(hidden), placed));
  }
}

class WhisperDecoder extends Module {
  readonly embed_tokens: Embedding;
  readonly embed_positions: Embedding;
  readonly layers: WhisperDecoderLayer[];
  readonly layer_norm: LayerNorm;

  constructor(config: WhisperConfig, init: Initializer) {
    super();
    const { d_model: hidden } = config;
    this.embed_tokens = new Embedding(config.vocab_size, hidden, { init });
    this.embed_positions = new Embedding(config.max_target_positions, hidden, { init });
    this.layers = Array.from({ length: config.decoder_layers }, () => new WhisperDecoderLayer(config, init));
    this.layer_norm = new LayerNorm(hidden, epsilon);
  }

  forward(inputs: DecoderInputs, source: readonly KeyValues[]): DecoderOutputs {
    const embedded = inputs.embeddings ?? this.embed_tokens.forward(inputs.ids!);
    const context = new DecoderContext(inputs, embedded);
    let hidden = add(embedded, this.embed_positions.forward(context.positions));
    const present: KeyValues[] = [];
    for (const [i, layer] of this.layers.entries()) {
      const out = layer.forward(hidden, context, source[i]!, inputs.past?.[i]);
      hidden = out.y;
      present.push(out.present);
    }
    return { hidden: this.layer_norm.forward(hidden), present };
  }
}

class WhisperModel extends Module {
  readonly encoder: WhisperEncoder;
  readonly decoder: WhisperDecoder;

  constructor(config: WhisperConfig, init: Initializer) {
    super();
    this.encoder = new WhisperEncoder(config, init);
    this.decoder = new WhisperDecoder(config, init);
  }

  forward(): void {}
}

/** What the encoder hears: log-mel spectrograms [batch, bins, frames], as the checkpoint's audio processor makes them. */
export type SpectrogramSource = { features: Tensor };

/** Whisper with its language-model head (`WhisperForConditionalGeneration`). */
export class WhisperForConditionalGeneration extends Seq2SeqLM<SpectrogramSource> {
  readonly architecture = "WhisperForConditionalGeneration";
  readonly config: WhisperConfig;
  readonly model: WhisperModel;

  constructor(config: WhisperConfig, seed = 0) {
    super();
    this.config = config;
    this.model = new WhisperModel(config, normal(new Random(seed), config.init_std));
    this.assignNames();
  }

  get contextLength(): number {
    return this.config.max_target_positions;
  }

  get startId(): number {
    return this.config.decoder_start_token_id;
  }

  get embedding(): Embedding {
    return this.model.decoder.embed_tokens;
  }

  get head(): undefined {
    return undefined;
  }

  states({ features }: SpectrogramSource): Tensor {
    return this.model.encoder.forward(features);
  }

  keyValues(states: Tensor): KeyValues[] {
    return this.model.decoder.layers.map((layer) => layer.encoder_attn.keyValues(states));
  }

  decode(inputs: DecoderInputs, { keyValues }: Encoded): DecoderOutputs {
    return this.model.decoder.forward(inputs, keyValues);
  }
}

export const whisper: Family<WhisperConfig> = {
  name: "Whisper",
  models: "Whisper, Distil-Whisper",
  modelTypes: ["whisper"],
  prefix: "model",
  // A copy of the embedding.
  derived: /^proj_out\.weight$/,
  readConfig,
  speechSeq2Seq: (config, seed) => new WhisperForConditionalGeneration(config, seed),
};
