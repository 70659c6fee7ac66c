/**
 * DINOv2 (Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision"):
 * - ViT's patches, image token and pre-normalisation
 * - what attention and feed-forward add is scaled by a learned factor per element (layer scale)
 * - the feed-forward is gelu's, or SwiGLU with both halves in one matrix (the giant model)
 * - images of any size: the learned places are interpolated, as even the published sizes need (made for 518 pixels, used with 224)
 * - the classifier reads the image token beside the mean of the patches
 * Dropout and dropped paths are left out. Module and parameter names equal those of Hugging Face checkpoints.
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  type Activation,
  activation,
  activationNames,
  constantFill,
  type Initializer,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  Parameter,
} from "../../nn/index.ts";
import { add, concat, mean, mul, silu, slice, split } from "../../ops/index.ts";
import { ImageEncoder, type ImageFeatures, imageFamily } from "../image-model.ts";
import { LayerStack, PatchAttention, PatchEmbedding, patchFields, tokenOf } from "../patch-embedding.ts";
import { checkMultiple, layerCount, parseConfig, size } from "../read-config.ts";

const configSchema = z.looseObject({
  model_type: z.string().default("dinov2"),
  hidden_size: size.default(768),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: size.default(12),
  mlp_ratio: z.number().positive().default(4),
  hidden_act: z.enum(activationNames).default("gelu"),
  layer_norm_eps: z.number().positive().default(1e-6),
  initializer_range: z.number().positive().default(0.02),
  qkv_bias: z.boolean().default(true),
  layerscale_value: z.number().default(1),
  use_swiglu_ffn: z.boolean().default(false),
  patch_size: size.default(14),
  ...patchFields,
});

/** The fields of `config.json` that the family reads, under their Hugging Face names. */
export type Dinov2Config = z.output<typeof configSchema>;

class LayerScale extends Module {
  readonly lambda1: Parameter;

  constructor({ hidden_size, layerscale_value }: Dinov2Config) {
    super();
    this.lambda1 = new Parameter([hidden_size], () => constantFill(layerscale_value)([hidden_size]));
  }

  forward(x: Tensor): Tensor {
    return mul(x, this.lambda1.value);
  }
}

class FeedForward extends Module {
  readonly fc1: Layer;
  readonly fc2: Layer;
  readonly #activation: Activation;

  constructor({ hidden_size: hidden, mlp_ratio, hidden_act }: Dinov2Config, init: Initializer) {
    super();
    const inner = Math.floor(hidden * mlp_ratio);
    this.fc1 = new Linear(hidden, inner, { init, bias: true });
    this.fc2 = new Linear(inner, hidden, { init, bias: true });
    this.#activation = activation(hidden_act);
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.#activation(this.fc1.forward(x)));
  }
}

/** Two thirds as wide as the other, in steps of 8, so that it has as many weights. */
class SwiGLU extends Module {
  readonly weights_in: Layer;
  readonly weights_out: Layer;

  constructor({ hidden_size: hidden, mlp_ratio }: Dinov2Config, init: Initializer) {
    super();
    const inner = Math.ceil(Math.floor((Math.floor(hidden * mlp_ratio) * 2) / 3) / 8) * 8;
    this.weights_in = new Linear(hidden, 2 * inner, { init, bias: true });
    this.weights_out = new Linear(inner, hidden, { init, bias: true });
  }

  forward(x: Tensor): Tensor {
    const [gate, up] = split(this.weights_in.forward(x), 2) as [Tensor, Tensor];
    return this.weights_out.forward(mul(silu(gate), up));
  }
}

class Dinov2Layer extends Module {
  readonly norm1: LayerNorm;
  readonly attention: PatchAttention;
  readonly layer_scale1: LayerScale;
  readonly norm2: LayerNorm;
  readonly mlp: Layer;
  readonly layer_scale2: LayerScale;

  constructor(config: Dinov2Config, init: Initializer) {
    super();
    const { hidden_size: hidden, layer_norm_eps: epsilon } = config;
    this.norm1 = new LayerNorm(hidden, epsilon);
    this.attention = new PatchAttention(config, init);
    this.layer_scale1 = new LayerScale(config);
    this.norm2 = new LayerNorm(hidden, epsilon);
    this.mlp = config.use_swiglu_ffn ? new SwiGLU(config, init) : new FeedForward(config, init);
    this.layer_scale2 = new LayerScale(config);
  }

  forward(x: Tensor): Tensor {
    const attended = add(x, this.layer_scale1.forward(this.attention.forward(this.norm1.forward(x))));
    return add(attended, this.layer_scale2.forward(this.mlp.forward(this.norm2.forward(attended))));
  }
}

export class Dinov2Model extends ImageEncoder {
  readonly embeddings: PatchEmbedding;
  readonly encoder: LayerStack;
  readonly layernorm: Layer;

  constructor(config: Dinov2Config, init: Initializer) {
    super();
    this.embeddings = new PatchEmbedding(config, init, { interpolate: true });
    this.encoder = new LayerStack(config.num_hidden_layers, () => new Dinov2Layer(config, init));
    this.layernorm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
  }

  forward(pixels: Tensor): ImageFeatures {
    const states = this.encoder.forward(this.embeddings.forward(pixels));
    return { hidden: this.layernorm.forward(states.at(-1)!), states };
  }
}

export const dinov2 = imageFamily<Dinov2Config>({
  name: "Dinov2",
  models: "DINOv2",
  modelTypes: ["dinov2"],
  prefix: "dinov2",
  readConfig(json, file) {
    const config = parseConfig(configSchema, json, file);
    checkMultiple(config, "hidden_size", "num_attention_heads", file);
    return config;
  },
  // Of the pre-training.
  derived: /^dinov2\.embeddings\.mask_token$/,
  encoder: (config, init) => new Dinov2Model(config, init),
  heads: ({ hidden_size }) => ({
    classifier: { columns: 2 * hidden_size, read: ({ hidden }) => concat([tokenOf(hidden, 0), mean(slice(hidden, 1, 1), 1)], 1) },
  }),
});
