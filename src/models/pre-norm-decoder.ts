/** The decoder that Llama made common: RMSNorm before attention and before the feed-forward, residuals around both. */
import type { Tensor } from "../graph/index.ts";
import {
  type DecoderContext,
  type DecoderInputs,
  type DecoderLayer,
  type DecoderOutputs,
  Embedding,
  type Initializer,
  type KeyValues,
  type Layer,
  Module,
  RMSNorm,
  runLayers,
} from "../nn/index.ts";
import { add } from "../ops/index.ts";
import { DecoderModel } from "./causal-lm.ts";

export interface PreNormDecoderOptions {
  vocabulary: number;
  hidden: number;
  layers: number;
  epsilon: number;
  init: Initializer;
  attention(layer: number): DecoderLayer;
  feedForward(layer: number): Layer;
}

export class PreNormDecoderLayer extends Module {
  readonly self_attn: DecoderLayer;
  readonly mlp: Layer;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;

  constructor(options: PreNormDecoderOptions, layer: number) {
    super();
    this.self_attn = options.attention(layer);
    this.mlp = options.feedForward(layer);
    this.input_layernorm = new RMSNorm(options.hidden, options.epsilon);
    this.post_attention_layernorm = new RMSNorm(options.hidden, options.epsilon);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { y, present } = this.self_attn.forward(this.input_layernorm.forward(x), context, past);
    const attended = add(x, y);
    return { y: add(attended, this.mlp.forward(this.post_attention_layernorm.forward(attended))), present };
  }
}

export class PreNormDecoder extends DecoderModel {
  readonly embed_tokens: Embedding;
  readonly layers: PreNormDecoderLayer[];
  readonly norm: RMSNorm;

  constructor(options: PreNormDecoderOptions) {
    super();
    this.embed_tokens = new Embedding(options.vocabulary, options.hidden, options);
    this.layers = Array.from({ length: options.layers }, (_, i) => new PreNormDecoderLayer(options, i));
    this.norm = new RMSNorm(options.hidden, options.epsilon);
  }

  get embedding(): Embedding {
    return this.embed_tokens;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    const { hidden, present } = runLayers(this.layers, this.embed(inputs), inputs);
    return { hidden: this.norm.forward(hidden), present };
  }
}
