/**
 * wav2vec 2.0 (Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations") and HuBERT (Hsu et al., "HuBERT:
 * Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units"):
 * - convolutions turn the waveform into frames (one for 320 samples in the published models); the first layer is normed per channel over time
 *   ("group"), or every layer over its channels ("layer")
 * - places come from one wide grouped convolution over the frames, whose weight is a direction and a length per kernel place
 * - transformer layers normed after attention and feed-forward, or before them ("stable layer norm")
 * - for recognition, a linear layer gives each frame logits over letters and a blank (connectionist temporal classification)
 * Dropout, dropped layers and the masking of pre-training are left out. Module and parameter names equal those of Hugging Face checkpoints.
 */
import { z } from "zod";
import type { Dim, Tensor } from "../../graph/index.ts";
import {
  type Activation,
  activation,
  activationNames,
  Conv1d,
  type Initializer,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  MultiHeadAttention,
  ones,
  Parameter,
  zeros,
} from "../../nn/index.ts";
import {
  add,
  conv1d,
  div,
  equal,
  groupNorm,
  less,
  mul,
  reshape,
  slice,
  sqrt,
  sub,
  sum,
  sumOfSquares,
  transpose,
  where,
} from "../../ops/index.ts";
import { SpeechEncoder, type SpeechFamilyOptions, type SpeechFeatures, type SpeechInputs, speechFamily } from "../ctc-model.ts";
import { badConfig, checkMultiple, layerCount, parseConfig, size } from "../read-config.ts";
import { lengthMask, paddingMask } from "../text-encoder.ts";

const sizes = z.array(size).min(1);

const configSchema = z.looseObject({
  model_type: z.enum(["wav2vec2", "hubert"]).default("wav2vec2"),
  vocab_size: size.default(32),
  hidden_size: size.default(768),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: size.default(12),
  intermediate_size: size.default(3072),
  hidden_act: z.enum(activationNames).default("gelu"),
  layer_norm_eps: z.number().positive().default(1e-5),
  initializer_range: z.number().positive().default(0.02),
  feat_extract_norm: z.enum(["group", "layer"]).default("group"),
  feat_extract_activation: z.enum(activationNames).default("gelu"),
  feat_proj_layer_norm: z.boolean().default(true),
  conv_dim: sizes.default([512, 512, 512, 512, 512, 512, 512]),
  conv_stride: sizes.default([5, 2, 2, 2, 2, 2, 2]),
  conv_kernel: sizes.default([10, 3, 3, 3, 3, 2, 2]),
  conv_bias: z.boolean().default(false),
  num_conv_pos_embeddings: size.default(128),
  num_conv_pos_embedding_groups: size.default(16),
  do_stable_layer_norm: z.boolean().default(false),
  pad_token_id: z.int().default(0),
  // Parts that some relatives have, and without which they would compute other numbers.
  add_adapter: z.literal(false).default(false),
  adapter_attn_dim: z.null().default(null),
  conv_pos_batch_norm: z.literal(false).default(false),
});

/** The fields of `config.json` that the families read, under their Hugging Face names. */
export type Wav2Vec2Config = z.output<typeof configSchema>;

/** Each channel over time: a group norm with as many groups as channels. */
class ChannelNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;

  constructor(channels: number) {
    super();
    this.weight = new Parameter([channels], () => ones([channels]));
    this.bias = new Parameter([channels], () => zeros([channels]));
  }

  forward(x: Tensor): Tensor {
    return groupNorm(x, this.weight.shape[0]!, this.weight.value, this.bias.value);
  }
}

const overChannels = (norm: Layer, x: Tensor): Tensor => transpose(norm.forward(transpose(x, [0, 2, 1])), [0, 2, 1]);

/** x [batch, in, time] → [batch, out, time′]. */
class ConvLayer extends Module {
  readonly conv: Layer;
  readonly layer_norm: ChannelNorm | LayerNorm | undefined;
  readonly #activation: Activation;

  constructor(config: Wav2Vec2Config, index: number, init: Initializer) {
    super();
    const out = config.conv_dim[index]!;
    const [kernel, stride] = [config.conv_kernel[index]!, config.conv_stride[index]!];
    this.conv = new Conv1d(index === 0 ? 1 : config.conv_dim[index - 1]!, out, { init, kernel, stride, bias: config.conv_bias });
    const first = index === 0 ? new ChannelNorm(out) : undefined;
    this.layer_norm = config.feat_extract_norm === "layer" ? new LayerNorm(out, 1e-5) : first;
    this.#activation = activation(config.feat_extract_activation);
  }

  forward(x: Tensor): Tensor {
    const { layer_norm: norm } = this;
    const y = this.conv.forward(x);
    return this.#activation(norm instanceof LayerNorm ? overChannels(norm, y) : norm ? norm.forward(y) : y);
  }
}

class FeatureExtractor extends Module {
  readonly conv_layers: ConvLayer[];

  constructor(config: Wav2Vec2Config, init: Initializer) {
    super();
    this.conv_layers = config.conv_dim.map((_, i) => new ConvLayer(config, i, init));
  }

  /** values [batch, time] → [batch, frames, channels]. */
  forward(values: Tensor): Tensor {
    const [batch, time] = values.shape as [Dim, Dim];
    const x = this.conv_layers.reduce((y, layer) => layer.forward(y), reshape(values, [batch, 1, time]));
    return transpose(x, [0, 2, 1]);
  }
}

class FeatureProjection extends Module {
  readonly layer_norm: Layer | undefined;
  readonly projection: Layer;

  constructor(config: Wav2Vec2Config, init: Initializer) {
    super();
    const channels = config.conv_dim.at(-1)!;
    this.layer_norm = config.feat_proj_layer_norm ? new LayerNorm(channels, config.layer_norm_eps) : undefined;
    this.projection = new Linear(channels, config.hidden_size, { init, bias: true });
  }

  forward(x: Tensor): Tensor {
    return this.projection.forward(this.layer_norm ? this.layer_norm.forward(x) : x);
  }
}

/** A weight as length · direction, one length per kernel place (Salimans and Kingma, "Weight Normalization"). */
class NormedWeight extends Module {
  /** Lengths, [1, 1, kernel]. */
  readonly original0: Parameter;
  /** Directions, [out, in, kernel]. */
  readonly original1: Parameter;

  constructor(shape: readonly [out: number, perGroup: number, kernel: number], init: Initializer) {
    super();
    this.original0 = new Parameter([1, 1, shape[2]], () => ones([1, 1, shape[2]]));
    this.original1 = new Parameter(shape, () => init(shape));
  }

  forward(): Tensor {
    const direction = this.original1.value;
    return mul(direction, div(this.original0.value, sqrt(sumOfSquares(direction, [0, 1], { keepDims: true }))));
  }
}

class Parametrizations extends Module {
  readonly weight: NormedWeight;

  constructor(weight: NormedWeight) {
    super();
    this.weight = weight;
  }

  forward(): Tensor {
    return this.weight.forward();
  }
}

class PositionalConv extends Module {
  readonly bias: Parameter;
  readonly parametrizations: Parametrizations;
  readonly #groups: number;

  constructor(config: Wav2Vec2Config, init: Initializer) {
    super();
    const { hidden_size: hidden, num_conv_pos_embedding_groups: groups, num_conv_pos_embeddings: kernel } = config;
    this.#groups = groups;
    this.bias = new Parameter([hidden], () => zeros([hidden]));
    this.parametrizations = new Parametrizations(new NormedWeight([hidden, hidden / groups, kernel], init));
  }

  /** x [batch, hidden, frames] → the same. */
  forward(x: Tensor): Tensor {
    const weight = this.parametrizations.forward();
    const kernel = weight.shape[2] as number;
    const y = conv1d(x, weight, { bias: this.bias.value, padding: Math.floor(kernel / 2), groups: this.#groups });
    // An even kernel gives one frame too many.
    return slice(y, 2, 0, x.shape[2]!);
  }
}

class PositionalEmbedding extends Module {
  readonly conv: PositionalConv;
  readonly #activation: Activation;

  constructor(config: Wav2Vec2Config, init: Initializer) {
    super();
    this.conv = new PositionalConv(config, init);
    this.#activation = activation(config.feat_extract_activation);
  }

  forward(x: Tensor): Tensor {
    return transpose(this.#activation(this.conv.forward(transpose(x, [0, 2, 1]))), [0, 2, 1]);
  }
}

class FeedForward extends Module {
  readonly intermediate_dense: Layer;
  readonly output_dense: Layer;
  readonly #activation: Activation;

  constructor({ hidden_size: hidden, intermediate_size: inner, hidden_act }: Wav2Vec2Config, init: Initializer) {
    super();
    this.intermediate_dense = new Linear(hidden, inner, { init, bias: true });
    this.output_dense = new Linear(inner, hidden, { init, bias: true });
    this.#activation = activation(hidden_act);
  }

  forward(x: Tensor): Tensor {
    return this.output_dense.forward(this.#activation(this.intermediate_dense.forward(x)));
  }
}

class EncoderLayer extends Module {
  readonly attention: MultiHeadAttention;
  readonly layer_norm: LayerNorm;
  readonly feed_forward: FeedForward;
  readonly final_layer_norm: LayerNorm;
  readonly #stable: boolean;

  constructor(config: Wav2Vec2Config, init: Initializer) {
    super();
    const { hidden_size: hidden, layer_norm_eps: epsilon } = config;
    this.#stable = config.do_stable_layer_norm;
    this.attention = new MultiHeadAttention(hidden, config.num_attention_heads, { init });
    this.layer_norm = new LayerNorm(hidden, epsilon);
    this.feed_forward = new FeedForward(config, init);
    this.final_layer_norm = new LayerNorm(hidden, epsilon);
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    const attend = (y: Tensor) => this.attention.forward(y, undefined, mask);
    if (this.#stable) {
      const attended = add(x, attend(this.layer_norm.forward(x)));
      return add(attended, this.feed_forward.forward(this.final_layer_norm.forward(attended)));
    }
    const attended = this.layer_norm.forward(add(x, attend(x)));
    return this.final_layer_norm.forward(add(attended, this.feed_forward.forward(attended)));
  }
}

class SpeechTransformer extends Module {
  readonly pos_conv_embed: PositionalEmbedding;
  readonly layer_norm: LayerNorm;
  readonly layers: EncoderLayer[];
  readonly #stable: boolean;

  constructor(config: Wav2Vec2Config, init: Initializer) {
    super();
    this.#stable = config.do_stable_layer_norm;
    this.pos_conv_embed = new PositionalEmbedding(config, init);
    this.layer_norm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new EncoderLayer(config, init));
  }

  /** x [batch, frames, hidden]; `frames` int64 [batch, frames], 0 where there is padding, which counts as zeros and is not seen. */
  forward(x: Tensor, frames?: Tensor): Tensor {
    const heard = frames ? where(equal(reshape(frames, [...frames.shape, 1]), 0), 0, x) : x;
    const placed = add(heard, this.pos_conv_embed.forward(heard));
    const mask = paddingMask(frames);
    const through = (y: Tensor) => this.layers.reduce((hidden, layer) => layer.forward(hidden, mask), y);
    return this.#stable ? this.layer_norm.forward(through(placed)) : through(this.layer_norm.forward(placed));
  }
}

export class Wav2Vec2Model extends SpeechEncoder {
  readonly feature_extractor: FeatureExtractor;
  readonly feature_projection: FeatureProjection;
  readonly encoder: SpeechTransformer;
  readonly #config: Wav2Vec2Config;

  constructor(config: Wav2Vec2Config, init: Initializer) {
    super();
    this.#config = config;
    this.feature_extractor = new FeatureExtractor(config, init);
    this.feature_projection = new FeatureProjection(config, init);
    this.encoder = new SpeechTransformer(config, init);
  }

  forward({ values, attentionMask }: SpeechInputs): SpeechFeatures {
    const x = this.feature_projection.forward(this.feature_extractor.forward(values));
    const lengths = attentionMask && this.#frames(sum(attentionMask, 1));
    return { hidden: this.encoder.forward(x, lengths && lengthMask(lengths, x.shape[1]!)), lengths };
  }

  /** What the convolutions make of lengths, int64 [batch]. */
  #frames(samples: Tensor): Tensor {
    const { conv_kernel: kernels, conv_stride: strides } = this.#config;
    return kernels.reduce((n, kernel, i) => where(less(n, kernel), 0, add(div(sub(n, kernel), strides[i]!), 1)), samples);
  }
}

function readConfig(json: unknown, file: string): Wav2Vec2Config {
  const config = parseConfig(configSchema, json, file);
  checkMultiple(config, "hidden_size", "num_attention_heads", file);
  checkMultiple(config, "hidden_size", "num_conv_pos_embedding_groups", file);
  const { conv_dim, conv_kernel, conv_stride } = config;
  if (conv_kernel.length !== conv_dim.length || conv_stride.length !== conv_dim.length)
    throw badConfig(file, ['"conv_dim", "conv_kernel" and "conv_stride" must be equally long']);
  return config;
}

const shared = {
  readConfig,
  encoder: (config, init) => new Wav2Vec2Model(config, init),
  // Older versions of PyTorch name length and direction of a normed weight otherwise.
  rename: (name) =>
    name.replace(/\.weight_g$/, ".parametrizations.weight.original0").replace(/\.weight_v$/, ".parametrizations.weight.original1"),
  // What stands for masked frames in pre-training.
  derived: /^(wav2vec2|hubert)\.masked_spec_embed$/,
} satisfies Partial<SpeechFamilyOptions<Wav2Vec2Config>>;

export const wav2vec2 = speechFamily<Wav2Vec2Config>({
  ...shared,
  name: "Wav2Vec2",
  models: "wav2vec 2.0, XLS-R",
  modelTypes: ["wav2vec2"],
  prefix: "wav2vec2",
});

export const hubert = speechFamily<Wav2Vec2Config>({
  ...shared,
  name: "Hubert",
  models: "HuBERT",
  modelTypes: ["hubert"],
  prefix: "hubert",
});
