/** What vision transformers share: an image as a sequence of patches, with tokens before it and a place for each. */
import { z } from "zod";
import { currentGraph, type Dim, EspalierError, type Tensor } from "../graph/index.ts";
import { Conv2d, type Initializer, type Layer, Linear, Module, multiHeadAttention, Parameter } from "../nn/index.ts";
import { add, concat, expand, matmul, reshape, slice, transpose } from "../ops/index.ts";
import { size } from "./read-config.ts";

/** Fields of `config.json` that say how an image is cut. */
export const patchFields = {
  /** One number for a square, or height and width. */
  image_size: z.union([size, z.tuple([size, size])]).default(224),
  num_channels: size.default(3),
};

export interface PatchConfig {
  image_size: number | [number, number];
  patch_size: number;
  num_channels: number;
  hidden_size: number;
}

/** Patches along height and width of the images that the model was made for. */
export function patchGrid({ image_size, patch_size }: PatchConfig): [rows: number, columns: number] {
  const [height, width] = typeof image_size === "number" ? [image_size, image_size] : image_size;
  return [Math.floor(height / patch_size), Math.floor(width / patch_size)];
}

/** pixels [batch, channels, height, width] → [batch, patches, hidden], row by row. */
export function patches(convolution: Layer, pixels: Tensor): Tensor {
  const grid = convolution.forward(pixels);
  const [batch, hidden, rows, columns] = grid.shape as [Dim, number, number, number];
  return transpose(reshape(grid, [batch, hidden, rows * columns]), [0, 2, 1]);
}

/** The pixels' height and width, which the patches need as numbers. */
export function pixelSize(pixels: Tensor, { num_channels: channels }: { num_channels: number }): [height: number, width: number] {
  const [, own, height, width] = pixels.shape;
  if (pixels.rank === 4 && own === channels && typeof height === "number" && typeof width === "number") return [height, width];
  throw new EspalierError(
    "shape-mismatch",
    `The model takes pixels [batch, ${channels}, height, width] with height and width as numbers, not [${pixels.shape.join(", ")}].`,
  );
}

/** @throws EspalierError `shape-mismatch` for pixels of another size than the model's */
export function checkPixels(pixels: Tensor, config: PatchConfig): void {
  const [height, width] = pixelSize(pixels, config);
  const { image_size: size } = config;
  const [ownHeight, ownWidth] = typeof size === "number" ? [size, size] : size;
  if (height === ownHeight && width === ownWidth) return;
  throw new EspalierError(
    "shape-mismatch",
    `The model was made for images of ${ownWidth}×${ownHeight} pixels and has no places for those of one of ${width}×${height}. Process images with the checkpoint's own preprocessor_config.json.`,
  );
}

class PatchProjection extends Module {
  readonly projection: Layer;

  constructor(config: PatchConfig, init: Initializer) {
    super();
    this.projection = new Conv2d(config.num_channels, config.hidden_size, { init, kernel: config.patch_size, stride: config.patch_size });
  }

  forward(pixels: Tensor): Tensor {
    return patches(this.projection, pixels);
  }
}

/** Patches after `cls_token` (and DeiT's `distillation_token`), with `position_embeddings` added. */
export class PatchEmbedding extends Module {
  readonly cls_token: Parameter;
  readonly distillation_token: Parameter | undefined;
  readonly patch_embeddings: PatchProjection;
  readonly position_embeddings: Parameter;
  readonly #config: PatchConfig;
  readonly #interpolate: boolean;

  /** @param options.interpolate whether images of other sizes are taken, their places interpolated between the model's */
  constructor(config: PatchConfig, init: Initializer, options: { distillation?: boolean; interpolate?: boolean } = {}) {
    super();
    const token = () => new Parameter([1, 1, config.hidden_size], () => init([1, 1, config.hidden_size]));
    this.#config = config;
    this.#interpolate = options.interpolate ?? false;
    const [rows, columns] = patchGrid(config);
    this.cls_token = token();
    this.distillation_token = options.distillation ? token() : undefined;
    this.patch_embeddings = new PatchProjection(config, init);
    const places = [1, rows * columns + (options.distillation ? 2 : 1), config.hidden_size];
    this.position_embeddings = new Parameter(places, () => init(places));
  }

  /** pixels [batch, channels, height, width] → [batch, tokens, hidden]. */
  forward(pixels: Tensor): Tensor {
    if (!this.#interpolate) checkPixels(pixels, this.#config);
    const [height, width] = pixelSize(pixels, this.#config);
    const embedded = this.patch_embeddings.forward(pixels);
    const [batch, , hidden] = embedded.shape as [Dim, number, number];
    const tokens = [this.cls_token, this.distillation_token].flatMap((token) => (token ? expand(token.value, [batch, 1, hidden]) : []));
    const { patch_size: patch } = this.#config;
    return add(concat([...tokens, embedded], 1), this.#places(tokens.length, Math.floor(height / patch), Math.floor(width / patch)));
  }

  /** A place for each token, [1, tokens, hidden]. */
  #places(before: number, rows: number, columns: number): Tensor {
    const places = this.position_embeddings.value;
    const [ownRows, ownColumns] = patchGrid(this.#config);
    if (rows === ownRows && columns === ownColumns) return places;
    const hidden = this.#config.hidden_size;
    // Along one axis and then along the other, each a product with a constant matrix, so that gradients follow.
    const down = matmul(cubicWeights(ownRows, rows), reshape(slice(places, 1, before), [ownRows, ownColumns * hidden]));
    const across = matmul(cubicWeights(ownColumns, columns), reshape(down, [rows, ownColumns, hidden]));
    return concat([slice(places, 1, 0, before), reshape(across, [1, rows * columns, hidden])], 1);
  }
}

/** Rows of PyTorch's bicubic interpolation (a = −¾, borders repeated, no antialiasing) as a constant, [to, from]. */
function cubicWeights(from: number, to: number): Tensor {
  const a = -0.75;
  const weight = (distance: number): number => {
    const x = Math.abs(distance);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
  };
  const values = new Float32Array(to * from);
  for (let i = 0; i < to; i++) {
    const center = ((i + 0.5) * from) / to - 0.5;
    for (let k = Math.floor(center) - 1; k <= Math.floor(center) + 2; k++)
      values[i * from + Math.min(from - 1, Math.max(0, k))]! += weight(center - k);
  }
  return currentGraph().constant("float32", [to, from], values);
}

class Projections extends Module {
  readonly query: Layer;
  readonly key: Layer;
  readonly value: Layer;
  readonly #heads: number;

  constructor({ hidden_size: hidden, num_attention_heads, qkv_bias: bias }: AttentionConfig, init: Initializer) {
    super();
    this.#heads = num_attention_heads;
    this.query = new Linear(hidden, hidden, { init, bias });
    this.key = new Linear(hidden, hidden, { init, bias });
    this.value = new Linear(hidden, hidden, { init, bias });
  }

  forward(x: Tensor): Tensor {
    return multiHeadAttention(this.query.forward(x), this.key.forward(x), this.value.forward(x), this.#heads);
  }
}

/** A Linear called `dense`. */
export class Dense extends Module {
  readonly dense: Layer;

  constructor(columns: number, rows: number, init: Initializer) {
    super();
    this.dense = new Linear(columns, rows, { init, bias: true });
  }

  forward(x: Tensor): Tensor {
    return this.dense.forward(x);
  }
}

export interface AttentionConfig {
  hidden_size: number;
  num_attention_heads: number;
  qkv_bias: boolean;
}

/** Attention of every patch to every other: `attention.query`, `attention.key`, `attention.value` and `output.dense`. */
export class PatchAttention extends Module {
  readonly attention: Projections;
  readonly output: Dense;

  constructor(config: AttentionConfig, init: Initializer) {
    super();
    this.attention = new Projections(config, init);
    this.output = new Dense(config.hidden_size, config.hidden_size, init);
  }

  forward(x: Tensor): Tensor {
    return this.output.forward(this.attention.forward(x));
  }
}

/** Layers under the name `layer`. */
export class LayerStack extends Module {
  readonly layer: Layer[];

  constructor(count: number, make: () => Layer) {
    super();
    this.layer = Array.from({ length: count }, make);
  }

  /** x → x and what each layer makes of it. */
  forward(x: Tensor): Tensor[] {
    const states = [x];
    for (const layer of this.layer) states.push(layer.forward(states.at(-1)!));
    return states;
  }
}

/** One of the first tokens, [batch, tokens, hidden] → [batch, hidden]. */
export function tokenOf(hidden: Tensor, index: number): Tensor {
  const [batch, , width] = hidden.shape as [Dim, Dim, number];
  return reshape(slice(hidden, 1, index, index + 1), [batch, width]);
}
