/**
 * T5 (Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"), T5 1.1 and FLAN-T5 (Chung et al., "Scaling
 * Instruction-Finetuned Language Models"):
 * - encoder and decoder share the embedding
 * - no embedded positions: a learned bias per head for each bucket of distances, held by the first layer and used by all
 * - RMSNorm before each block, no biases, scores not scaled
 * - ReLU feed-forward in T5, gated GELU in T5 1.1 and FLAN-T5, which have a head of their own; T5 scales the states before its tied head
 */
import { z } from "zod";
import { type Dim, Random, type Tensor } from "../../graph/index.ts";
import {
  type ActivationName,
  activationNames,
  activations,
  attend,
  DecoderContext,
  type DecoderInputs,
  type DecoderOutputs,
  distanceBuckets,
  Embedding,
  type Initializer,
  joinHeads,
  type KeyValues,
  type Layer,
  Linear,
  Module,
  normal,
  RMSNorm,
  splitHeads,
} from "../../nn/index.ts";
import { add, attentionOver, mul, range, sub, transpose, unsqueeze } from "../../ops/index.ts";
import type { Family } from "../family.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";
import { type Encoded, Seq2SeqLM, type Seq2SeqOptions, type TextSource } from "../seq2seq.ts";
import { paddingMask } from "../text-encoder.ts";

const schema = z.looseObject({
  model_type: z.enum(["t5", "mt5"]),
  vocab_size: size,
  d_model: size,
  d_kv: size,
  d_ff: size,
  num_layers: layerCount,
  num_decoder_layers: layerCount.nullish(),
  num_heads: size,
  relative_attention_num_buckets: size.min(4).default(32),
  relative_attention_max_distance: size.max(2 ** 16).default(128),
  layer_norm_epsilon: z.number().positive().default(1e-6),
  initializer_factor: z.number().positive().default(1),
  feed_forward_proj: z.string().optional(),
  decoder_start_token_id: z.int().nonnegative().default(0),
  tie_word_embeddings: z.boolean().default(true),
  scale_decoder_outputs: z.boolean().optional(),
});

type T5Config = z.output<typeof schema> & { feed_forward_proj: string; activation: ActivationName; gated: boolean };

function readConfig(json: unknown, file: string): T5Config {
  const parsed = parseConfig(schema, json, file);
  const config = { ...parsed, feed_forward_proj: parsed.feed_forward_proj ?? (parsed.model_type === "mt5" ? "gated-gelu" : "relu") };
  const { relative_attention_num_buckets: count, relative_attention_max_distance: furthest } = parsed;
  if (furthest <= count / 2)
    throw badConfig(file, [
      `"relative_attention_max_distance" (${furthest}) must be more than half of "relative_attention_num_buckets" (${count})`,
    ]);
  const [first = "", second, ...more] = config.feed_forward_proj.split("-");
  const gated = second !== undefined;
  // What the name says is not what T5 1.1 was trained with.
  const name = config.feed_forward_proj === "gated-gelu" ? "gelu_new" : gated ? second : first;
  if (more.length > 0 || (gated && first !== "gated") || !(activationNames as readonly string[]).includes(name))
    throw badConfig(file, [
      `"feed_forward_proj" is ${JSON.stringify(config.feed_forward_proj)}; it must be an activation, or "gated-" and one`,
    ]);
  return { ...config, activation: name as ActivationName, gated };
}

class T5Attention extends Module {
  readonly q: Layer;
  readonly k: Layer;
  readonly v: Layer;
  readonly o: Layer;
  readonly relative_attention_bias: Embedding | undefined;
  readonly heads: number;
  readonly #config: T5Config;
  readonly #bidirectional: boolean;

  constructor(config: T5Config, init: Initializer, options: { bias: boolean; bidirectional: boolean }) {
    super();
    const { d_model: hidden, d_kv: width, num_heads: heads } = config;
    this.#config = config;
    this.#bidirectional = options.bidirectional;
    this.heads = heads;
    this.q = new Linear(hidden, heads * width, { init });
    this.k = new Linear(hidden, heads * width, { init });
    this.v = new Linear(hidden, heads * width, { init });
    this.o = new Linear(heads * width, hidden, { init });
    this.relative_attention_bias = options.bias ? new Embedding(config.relative_attention_num_buckets, heads, { init }) : undefined;
  }

  /** Positions int64 [batch or 1, queries] and [batch or 1, keys] → the bias of the scores, [batch or 1, heads, queries, keys]. */
  bias(queries: Tensor, keys: Tensor): Tensor {
    const distance = sub(unsqueeze(keys, 1), unsqueeze(queries, 2));
    const { relative_attention_num_buckets: count, relative_attention_max_distance: furthest } = this.#config;
    const buckets = distanceBuckets(distance, { count, furthest, bidirectional: this.#bidirectional });
    return transpose(this.relative_attention_bias!.forward(buckets), [0, 3, 1, 2]);
  }

  keyValues(x: Tensor): KeyValues {
    return { key: splitHeads(this.k.forward(x), this.heads), value: splitHeads(this.v.forward(x), this.heads) };
  }

  /** The states attended to, and the projection of what attention makes of them. */
  forward(x: Tensor, mix: (q: Tensor) => Tensor): Tensor {
    return this.o.forward(joinHeads(mix(splitHeads(this.q.forward(x), this.heads))));
  }
}

class T5SelfAttentionLayer extends Module {
  readonly SelfAttention: T5Attention;
  readonly layer_norm: RMSNorm;

  constructor(config: T5Config, init: Initializer, options: { bias: boolean; bidirectional: boolean }) {
    super();
    this.SelfAttention = new T5Attention(config, init, options);
    this.layer_norm = new RMSNorm(config.d_model, config.layer_norm_epsilon);
  }

  /** Attention over the tokens themselves, with a bias or mask of the scores. */
  forward(x: Tensor, bias: Tensor): Tensor {
    const normed = this.layer_norm.forward(x);
    const own = this.SelfAttention.keyValues(normed);
    return add(
      x,
      this.SelfAttention.forward(normed, (q) => attentionOver(q, [own], { scale: 1, mask: bias })),
    );
  }

  /** As a decoder's layer. */
  continue(x: Tensor, context: DecoderContext, bias: Tensor, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const normed = this.layer_norm.forward(x);
    const present = this.SelfAttention.keyValues(normed);
    const y = this.SelfAttention.forward(normed, (q) => attend(q, present, past, context, { scale: 1, bias }));
    return { y: add(x, y), present };
  }
}

class T5CrossAttentionLayer extends Module {
  readonly EncDecAttention: T5Attention;
  readonly layer_norm: RMSNorm;

  constructor(config: T5Config, init: Initializer) {
    super();
    this.EncDecAttention = new T5Attention(config, init, { bias: false, bidirectional: true });
    this.layer_norm = new RMSNorm(config.d_model, config.layer_norm_epsilon);
  }

  forward(x: Tensor, source: KeyValues, mask: Tensor | undefined): Tensor {
    return add(
      x,
      this.EncDecAttention.forward(this.layer_norm.forward(x), (q) => attentionOver(q, [source], { scale: 1, mask })),
    );
  }
}

class T5Dense extends Module {
  readonly wi: Layer | undefined;
  readonly wi_0: Layer | undefined;
  readonly wi_1: Layer | undefined;
  readonly wo: Layer;
  readonly #activation: ActivationName;

  constructor(config: T5Config, init: Initializer) {
    super();
    const inner = () => new Linear(config.d_model, config.d_ff, { init });
    this.#activation = config.activation;
    this.wi = config.gated ? undefined : inner();
    this.wi_0 = config.gated ? inner() : undefined;
    this.wi_1 = config.gated ? inner() : undefined;
    this.wo = new Linear(config.d_ff, config.d_model, { init });
  }

  forward(x: Tensor): Tensor {
    const act = activations[this.#activation];
    return this.wo.forward(this.wi ? act(this.wi.forward(x)) : mul(act(this.wi_0!.forward(x)), this.wi_1!.forward(x)));
  }
}

class T5FeedForwardLayer extends Module {
  readonly DenseReluDense: T5Dense;
  readonly layer_norm: RMSNorm;

  constructor(config: T5Config, init: Initializer) {
    super();
    this.DenseReluDense = new T5Dense(config, init);
    this.layer_norm = new RMSNorm(config.d_model, config.layer_norm_epsilon);
  }

  forward(x: Tensor): Tensor {
    return add(x, this.DenseReluDense.forward(this.layer_norm.forward(x)));
  }
}

class T5EncoderBlock extends Module {
  readonly layer: [T5SelfAttentionLayer, T5FeedForwardLayer];

  constructor(config: T5Config, init: Initializer, index: number) {
    super();
    this.layer = [new T5SelfAttentionLayer(config, init, { bias: index === 0, bidirectional: true }), new T5FeedForwardLayer(config, init)];
  }

  forward(x: Tensor, bias: Tensor): Tensor {
    return this.layer[1].forward(this.layer[0].forward(x, bias));
  }
}

class T5DecoderBlock extends Module {
  readonly layer: [T5SelfAttentionLayer, T5CrossAttentionLayer, T5FeedForwardLayer];

  constructor(config: T5Config, init: Initializer, index: number) {
    super();
    this.layer = [
      new T5SelfAttentionLayer(config, init, { bias: index === 0, bidirectional: false }),
      new T5CrossAttentionLayer(config, init),
      new T5FeedForwardLayer(config, init),
    ];
  }

  forward(x: Tensor, context: DecoderContext, bias: Tensor, source: KeyValues, mask: Tensor | undefined, past?: KeyValues) {
    const [self, cross, feedForward] = this.layer;
    const { y, present } = self.continue(x, context, bias, past);
    return { y: feedForward.forward(cross.forward(y, source, mask)), present };
  }
}

class T5Stack<B extends Module> extends Module {
  readonly block: B[];
  readonly final_layer_norm: RMSNorm;

  constructor(config: T5Config, block: B[]) {
    super();
    this.block = block;
    this.final_layer_norm = new RMSNorm(config.d_model, config.layer_norm_epsilon);
  }

  forward(): void {}
}

const blocks = <B>(count: number, make: (index: number) => B): B[] => Array.from({ length: count }, (_, i) => make(i));

/** T5 with its language-model head (`T5ForConditionalGeneration`). */
export class T5ForConditionalGeneration extends Seq2SeqLM<TextSource> {
  readonly architecture: string;
  readonly config: T5Config;
  readonly contextLength = Number.POSITIVE_INFINITY;
  readonly shared: Embedding;
  readonly encoder: T5Stack<T5EncoderBlock>;
  readonly decoder: T5Stack<T5DecoderBlock>;
  readonly lm_head: Linear | undefined;

  constructor(config: T5Config, { seed = 0, ownHead = !config.tie_word_embeddings }: Seq2SeqOptions = {}) {
    super();
    const init = normal(new Random(seed), config.initializer_factor * config.d_model ** -0.5);
    this.architecture = config.model_type === "mt5" ? "MT5ForConditionalGeneration" : "T5ForConditionalGeneration";
    this.config = config;
    this.shared = new Embedding(config.vocab_size, config.d_model, { init });
    this.encoder = new T5Stack(
      config,
      blocks(config.num_layers, (i) => new T5EncoderBlock(config, init, i)),
    );
    this.decoder = new T5Stack(
      config,
      blocks(config.num_decoder_layers ?? config.num_layers, (i) => new T5DecoderBlock(config, init, i)),
    );
    this.lm_head = ownHead ? new Linear(config.d_model, config.vocab_size, { init }) : undefined;
    this.assignNames();
  }

  get startId(): number {
    return this.config.decoder_start_token_id;
  }

  get embedding(): Embedding {
    return this.shared;
  }

  get head(): Layer | undefined {
    return this.lm_head;
  }

  override sourceMask({ attentionMask }: TextSource): Tensor | undefined {
    return paddingMask(attentionMask);
  }

  states({ ids, attentionMask }: TextSource): Tensor {
    const positions = unsqueeze(range(ids.shape[1] as Dim), 0);
    const mask = paddingMask(attentionMask);
    const [first] = this.encoder.block;
    const relative = first!.layer[0].SelfAttention.bias(positions, positions);
    const bias = mask ? add(relative, mask) : relative;
    const hidden = this.encoder.block.reduce((x, block) => block.forward(x, bias), this.shared.forward(ids));
    return this.encoder.final_layer_norm.forward(hidden);
  }

  keyValues(states: Tensor): KeyValues[] {
    return this.decoder.block.map((block) => block.layer[1].EncDecAttention.keyValues(states));
  }

  decode(inputs: DecoderInputs, { keyValues, mask }: Encoded): DecoderOutputs {
    let hidden = inputs.embeddings ?? this.shared.forward(inputs.ids!);
    const context = new DecoderContext(inputs, hidden);
    const [first] = this.decoder.block;
    const bias = first!.layer[0].SelfAttention.bias(context.positions, context.keyPositions);
    const present: KeyValues[] = [];
    for (const [i, block] of this.decoder.block.entries()) {
      const out = block.forward(hidden, context, bias, keyValues[i]!, mask, inputs.past?.[i]);
      hidden = out.y;
      present.push(out.present);
    }
    return { hidden: this.decoder.final_layer_norm.forward(hidden), present };
  }

  override logits(hidden: Tensor): Tensor {
    const scaled = this.config.scale_decoder_outputs ?? this.config.tie_word_embeddings;
    return super.logits(scaled ? mul(hidden, this.config.d_model ** -0.5) : hidden);
  }
}

export const t5: Family<T5Config> = {
  name: "T5",
  models: "T5, T5 1.1, FLAN-T5, mT5",
  modelTypes: ["t5", "mt5"],
  prefix: "",
  // Copies of the shared embedding, and a bias that the first layers of old checkpoints hold without using it.
  derived: /^(en|de)coder\.embed_tokens\.weight$|EncDecAttention\.relative_attention_bias\.weight$/,
  readConfig,
  seq2seq: (config, options) => new T5ForConditionalGeneration(config, options),
};
