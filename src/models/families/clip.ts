/**
 * CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"): two encoders whose embeddings are near where text
 * and image belong together.
 * - both are pre-normalised transformers with learned places, biases and quick gelu (x·σ(1.702·x))
 * - the image tower is a ViT whose patches have no bias, with one more norm in front; its image token is normed and projected
 * - the text tower is causal; the state at the token that ends the text is projected
 * - similarities are cosines times a learned factor, stored as its logarithm
 * Dropout is left out. Module and parameter names equal those of Hugging Face checkpoints, `pre_layrnorm` included.
 */
import { z } from "zod";
import { type Dim, EspalierError, mulDims, Random, type Tensor } from "../../graph/index.ts";
import {
  type Activation,
  activation,
  activationNames,
  Conv2d,
  constantFill,
  Embedding,
  type Initializer,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  MultiHeadAttention,
  normal,
  Parameter,
} from "../../nn/index.ts";
import {
  add,
  argMax,
  cast,
  causalMask,
  concat,
  dimension,
  div,
  equal,
  exp,
  expand,
  gather,
  linear,
  mul,
  range,
  reshape,
  sqrt,
  sumOfSquares,
} from "../../ops/index.ts";
import type { Family } from "../family.ts";
import { checkPixels, patches, patchFields, patchGrid, tokenOf } from "../patch-embedding.ts";
import { checkMultiple, layerCount, parseConfig, size } from "../read-config.ts";
import { paddingMask } from "../text-encoder.ts";

const towerFields = {
  hidden_size: size.default(768),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: size.default(12),
  intermediate_size: size.default(3072),
  hidden_act: z.enum(activationNames).default("quick_gelu"),
  layer_norm_eps: z.number().positive().default(1e-5),
  initializer_range: z.number().positive().default(0.02),
};

const textSchema = z.looseObject({
  ...towerFields,
  hidden_size: size.default(512),
  num_attention_heads: size.default(8),
  intermediate_size: size.default(2048),
  vocab_size: size.default(49408),
  max_position_embeddings: size.default(77),
  eos_token_id: z.int().default(49407),
});
const imageSchema = z.looseObject({ ...towerFields, patch_size: size.default(32), ...patchFields });

const configSchema = z.looseObject({
  model_type: z.string().default("clip"),
  text_config: textSchema,
  vision_config: imageSchema,
  projection_dim: size.default(512),
  logit_scale_init_value: z.number().default(2.6592),
});

/** The fields of `config.json` that the family reads, under their Hugging Face names. */
export type ClipConfig = z.output<typeof configSchema>;
type TextConfig = z.output<typeof textSchema>;
type VisionConfig = z.output<typeof imageSchema>;
type TowerConfig = TextConfig | VisionConfig;

class FeedForward extends Module {
  readonly fc1: Layer;
  readonly fc2: Layer;
  readonly #activation: Activation;

  constructor({ hidden_size: hidden, intermediate_size: inner, hidden_act }: TowerConfig, init: Initializer) {
    super();
    this.fc1 = new Linear(hidden, inner, { init, bias: true });
    this.fc2 = new Linear(inner, hidden, { init, bias: true });
    this.#activation = activation(hidden_act);
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.#activation(this.fc1.forward(x)));
  }
}

class ClipLayer extends Module {
  readonly self_attn: MultiHeadAttention;
  readonly layer_norm1: LayerNorm;
  readonly mlp: FeedForward;
  readonly layer_norm2: LayerNorm;

  constructor(config: TowerConfig, init: Initializer) {
    super();
    const { hidden_size: hidden, layer_norm_eps: epsilon } = config;
    this.self_attn = new MultiHeadAttention(hidden, config.num_attention_heads, { init });
    this.layer_norm1 = new LayerNorm(hidden, epsilon);
    this.mlp = new FeedForward(config, init);
    this.layer_norm2 = new LayerNorm(hidden, epsilon);
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    const attended = add(x, this.self_attn.forward(this.layer_norm1.forward(x), undefined, mask));
    return add(attended, this.mlp.forward(this.layer_norm2.forward(attended)));
  }
}

class ClipEncoder extends Module {
  readonly layers: ClipLayer[];

  constructor(config: TowerConfig, init: Initializer) {
    super();
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new ClipLayer(config, init));
  }

  forward(x: Tensor, mask?: Tensor): Tensor {
    return this.layers.reduce((hidden, layer) => layer.forward(hidden, mask), x);
  }
}

/** What a tower makes of its input. */
export interface TowerOutputs {
  /** [batch, tokens, width]: of a text after the last norm, of an image before it. */
  hidden: Tensor;
  /** [batch, width]: the text's end or the image token, after the last norm. */
  pooled: Tensor;
}

class TextEmbeddings extends Module {
  readonly token_embedding: Embedding;
  readonly position_embedding: Embedding;

  constructor(config: TextConfig, init: Initializer) {
    super();
    this.token_embedding = new Embedding(config.vocab_size, config.hidden_size, { init });
    this.position_embedding = new Embedding(config.max_position_embeddings, config.hidden_size, { init });
  }

  forward(ids: Tensor): Tensor {
    return add(this.token_embedding.forward(ids), this.position_embedding.forward(range(ids.shape[1]!)));
  }
}

export class ClipTextModel extends Module {
  readonly embeddings: TextEmbeddings;
  readonly encoder: ClipEncoder;
  readonly final_layer_norm: LayerNorm;
  readonly #end: number;
  readonly #context: number;

  constructor(config: TextConfig, init: Initializer) {
    super();
    this.#end = config.eos_token_id;
    this.#context = config.max_position_embeddings;
    this.embeddings = new TextEmbeddings(config, init);
    this.encoder = new ClipEncoder(config, init);
    this.final_layer_norm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
  }

  /** ids int64 [batch, time], each row with the token that ends it; `attentionMask` int64 [batch, time], 0 where there is padding. */
  forward(ids: Tensor, attentionMask?: Tensor): TowerOutputs {
    const [batch, time] = ids.shape as [Dim, Dim];
    if (typeof time === "number" && time > this.#context) {
      throw new EspalierError(
        "context-overflow",
        `A text of ${time} tokens does not fit the model's ${this.#context} places. Cut it, keeping the token that ends it.`,
      );
    }
    const padding = paddingMask(attentionMask);
    const causal = causalMask(time, time);
    const hidden = this.final_layer_norm.forward(
      this.encoder.forward(this.embeddings.forward(ids), padding ? add(causal, padding) : causal),
    );
    const width = hidden.shape[2]!;
    const rows = add(mul(range(batch), dimension(time)), this.#ends(ids));
    return { hidden, pooled: gather(reshape(hidden, [mulDims(batch, time), width]), rows, 0) };
  }

  /** The place of each text's end, int64 [batch]. Configurations of before 2023 say 2, whatever it is; there it is the largest id. */
  #ends(ids: Tensor): Tensor {
    return argMax(cast(this.#end === 2 ? ids : equal(ids, this.#end), "float32"));
  }
}

class ImageEmbeddings extends Module {
  readonly class_embedding: Parameter;
  readonly patch_embedding: Layer;
  readonly position_embedding: Embedding;
  readonly #config: VisionConfig;

  constructor(config: VisionConfig, init: Initializer) {
    super();
    const { hidden_size: hidden, patch_size: patch } = config;
    const [rows, columns] = patchGrid(config);
    this.#config = config;
    this.class_embedding = new Parameter([hidden], () => init([hidden]));
    this.patch_embedding = new Conv2d(config.num_channels, hidden, { init, kernel: patch, stride: patch, bias: false });
    this.position_embedding = new Embedding(rows * columns + 1, hidden, { init });
  }

  forward(pixels: Tensor): Tensor {
    checkPixels(pixels, this.#config);
    const embedded = patches(this.patch_embedding, pixels);
    const [batch, , hidden] = embedded.shape as [Dim, Dim, number];
    return add(concat([expand(this.class_embedding.value, [batch, 1, hidden]), embedded], 1), this.position_embedding.weight.value);
  }
}

export class ClipVisionModel extends Module {
  readonly embeddings: ImageEmbeddings;
  readonly pre_layrnorm: LayerNorm;
  readonly encoder: ClipEncoder;
  readonly post_layernorm: LayerNorm;

  constructor(config: VisionConfig, init: Initializer) {
    super();
    const { hidden_size: hidden, layer_norm_eps: epsilon } = config;
    this.embeddings = new ImageEmbeddings(config, init);
    this.pre_layrnorm = new LayerNorm(hidden, epsilon);
    this.encoder = new ClipEncoder(config, init);
    this.post_layernorm = new LayerNorm(hidden, epsilon);
  }

  /** pixels [batch, channels, height, width] of the model's size. */
  forward(pixels: Tensor): TowerOutputs {
    const hidden = this.encoder.forward(this.pre_layrnorm.forward(this.embeddings.forward(pixels)));
    return { hidden, pooled: this.post_layernorm.forward(tokenOf(hidden, 0)) };
  }
}

const toUnitLength = (x: Tensor): Tensor => div(x, sqrt(sumOfSquares(x, -1, { keepDims: true })));

export class ClipModel extends Module {
  readonly architecture = "CLIPModel";
  readonly config: ClipConfig;
  readonly text_model: ClipTextModel;
  readonly vision_model: ClipVisionModel;
  readonly visual_projection: Layer;
  readonly text_projection: Layer;
  readonly logit_scale: Parameter;

  constructor(config: ClipConfig, seed = 0) {
    super();
    this.config = config;
    const { text_config: text, vision_config: vision, projection_dim: width } = config;
    const random = new Random(seed);
    const [textInit, imageInit] = [normal(random, text.initializer_range), normal(random, vision.initializer_range)];
    this.text_model = new ClipTextModel(text, textInit);
    this.vision_model = new ClipVisionModel(vision, imageInit);
    this.visual_projection = new Linear(vision.hidden_size, width, { init: imageInit });
    this.text_projection = new Linear(text.hidden_size, width, { init: textInit });
    this.logit_scale = new Parameter([], () => constantFill(config.logit_scale_init_value)([]));
    this.assignNames();
  }

  /** Tokens of a text that the model can see. */
  get contextLength(): number {
    return this.config.text_config.max_position_embeddings;
  }

  /** Texts → embeddings of length 1, [batch, width]; see {@link ClipTextModel.forward}. */
  embedTexts(ids: Tensor, attentionMask?: Tensor): Tensor {
    return toUnitLength(this.text_projection.forward(this.text_model.forward(ids, attentionMask).pooled));
  }

  /** Images → embeddings of length 1, [batch, width]. */
  embedImages(pixels: Tensor): Tensor {
    return toUnitLength(this.visual_projection.forward(this.vision_model.forward(pixels).pooled));
  }

  /** Embeddings of images and texts, and how well each image suits each text: logits [images, texts]. */
  forward(inputs: { pixels: Tensor; ids: Tensor; attentionMask?: Tensor }): { images: Tensor; texts: Tensor; logits: Tensor } {
    const images = this.embedImages(inputs.pixels);
    const texts = this.embedTexts(inputs.ids, inputs.attentionMask);
    return { images, texts, logits: mul(linear(images, texts), exp(this.logit_scale.value)) };
  }
}

function readConfig(json: unknown, file: string): ClipConfig {
  const raw = json as Record<string, unknown>;
  // Old files repeat parts of a tower's configuration, which count for more there.
  const tower = (name: string) => ({ ...(raw[name] as object | null), ...(raw[`${name}_dict`] as object | null) });
  const config = parseConfig(configSchema, { ...raw, text_config: tower("text_config"), vision_config: tower("vision_config") }, file);
  checkMultiple(config.text_config, "hidden_size", "num_attention_heads", `${file} ("text_config")`);
  checkMultiple(config.vision_config, "hidden_size", "num_attention_heads", `${file} ("vision_config")`);
  return config;
}

export const clip: Family<ClipConfig> = {
  name: "CLIP",
  models: "CLIP",
  modelTypes: ["clip"],
  prefix: "",
  readConfig,
  // 0, 1, 2, …
  derived: /embeddings\.position_ids$/,
  imageTextModel: (config, seed) => new ClipModel(config, seed),
};
