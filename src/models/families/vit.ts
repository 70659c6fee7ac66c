/**
 * ViT (Dosovitskiy et al., "An Image is Worth 16x16 Words") and DeiT (Touvron et al., "Training data-efficient image transformers & distillation
 * through attention"):
 * - an image is cut into patches, each embedded by one matrix (a convolution whose stride is its kernel), with learned places
 * - a token before the patches stands for the image; DeiT has a second one that was taught by another model, and may have a head on each
 * - pre-normalisation with LayerNorm; biases everywhere; gelu
 * Images have one size, the model's. Dropout is left out. Module and parameter names equal those of Hugging Face checkpoints.
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import { activation, activationNames, type Initializer, type Layer, LayerNorm, Module } from "../../nn/index.ts";
import { add } from "../../ops/index.ts";
import { ImageEncoder, type ImageFamilyOptions, type ImageFeatures, type ImageHead, imageFamily } from "../image-model.ts";
import { Dense, LayerStack, PatchAttention, PatchEmbedding, patchFields, tokenOf } from "../patch-embedding.ts";
import { checkMultiple, layerCount, parseConfig, size } from "../read-config.ts";

const configSchema = z.looseObject({
  model_type: z.string().default("vit"),
  architectures: z.array(z.string()).nullish(),
  hidden_size: size.default(768),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: size.default(12),
  intermediate_size: size.default(3072),
  hidden_act: z.enum(activationNames).default("gelu"),
  layer_norm_eps: z.number().positive().default(1e-12),
  initializer_range: z.number().positive().default(0.02),
  qkv_bias: z.boolean().default(true),
  patch_size: size.default(16),
  ...patchFields,
});

/** The fields of `config.json` that the family reads, under their Hugging Face names. */
export type ViTConfig = z.output<typeof configSchema>;

class ViTLayer extends Module {
  readonly attention: PatchAttention;
  readonly intermediate: Dense;
  readonly output: Dense;
  readonly layernorm_before: LayerNorm;
  readonly layernorm_after: LayerNorm;
  readonly #activation: (x: Tensor) => Tensor;

  constructor(config: ViTConfig, init: Initializer) {
    super();
    const { hidden_size: hidden, intermediate_size: inner, layer_norm_eps: epsilon } = config;
    this.attention = new PatchAttention(config, init);
    this.intermediate = new Dense(hidden, inner, init);
    this.output = new Dense(inner, hidden, init);
    this.layernorm_before = new LayerNorm(hidden, epsilon);
    this.layernorm_after = new LayerNorm(hidden, epsilon);
    this.#activation = activation(config.hidden_act);
  }

  forward(x: Tensor): Tensor {
    const attended = add(x, this.attention.forward(this.layernorm_before.forward(x)));
    const inner = this.#activation(this.intermediate.forward(this.layernorm_after.forward(attended)));
    return add(attended, this.output.forward(inner));
  }
}

export class ViTModel extends ImageEncoder {
  readonly embeddings: PatchEmbedding;
  readonly encoder: LayerStack;
  readonly layernorm: Layer;

  constructor(config: ViTConfig, init: Initializer) {
    super();
    this.embeddings = new PatchEmbedding(config, init, { distillation: config.model_type === "deit" });
    this.encoder = new LayerStack(config.num_hidden_layers, () => new ViTLayer(config, init));
    this.layernorm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
  }

  forward(pixels: Tensor): ImageFeatures {
    const states = this.encoder.forward(this.embeddings.forward(pixels));
    return { hidden: this.layernorm.forward(states.at(-1)!), states };
  }
}

function readConfig(json: unknown, file: string): ViTConfig {
  const config = parseConfig(configSchema, json, file);
  checkMultiple(config, "hidden_size", "num_attention_heads", file);
  return config;
}

const onToken = (index: number, columns: number): ImageHead => ({ columns, read: ({ hidden }) => tokenOf(hidden, index) });

const shared = {
  readConfig,
  encoder: (config, init) => new ViTModel(config, init),
  // Some checkpoints carry a pooler and a mask token of their pre-training, which nothing here reads.
  derived: /^(vit|deit)\.(pooler\.|embeddings\.mask_token$)/,
} satisfies Partial<ImageFamilyOptions<ViTConfig>>;

export const vit = imageFamily<ViTConfig>({
  ...shared,
  name: "ViT",
  models: "ViT",
  modelTypes: ["vit"],
  prefix: "vit",
  heads: ({ hidden_size }) => ({ classifier: onToken(0, hidden_size) }),
});

export const deit = imageFamily<ViTConfig>({
  ...shared,
  name: "DeiT",
  models: "DeiT",
  modelTypes: ["deit"],
  prefix: "deit",
  heads: ({ architectures, hidden_size }): Record<string, ImageHead> =>
    architectures?.includes("DeiTForImageClassificationWithTeacher")
      ? { cls_classifier: onToken(0, hidden_size), distillation_classifier: onToken(1, hidden_size) }
      : { classifier: onToken(0, hidden_size) },
});
