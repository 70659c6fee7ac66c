/**
 * BLOOM (BigScience Workshop, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model"):
 * - no embedded positions: each head's scores get a bias that falls with distance (Press et al., "Train Short, Test Long", ALiBi)
 * - LayerNorm right after the embedding; before attention and feed-forward, and after the last layer
 * - `query_key_value` makes queries, keys and values head by head; the tanh form of GELU
 * - the embedding serves as the head
 */
import { z } from "zod";
import { currentGraph, type Tensor } from "../../graph/index.ts";
import {
  attend,
  DecoderContext,
  type DecoderInputs,
  type DecoderOutputs,
  Embedding,
  type Initializer,
  joinHeads,
  type KeyValues,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  runLayers,
} from "../../nn/index.ts";
import { add, cast, geluTanh, mul, reshape } from "../../ops/index.ts";
import { DecoderModel } from "../causal-lm.ts";
import { decoderFamily } from "../decoder-family.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";
import { splitByHead } from "./gpt-neox.ts";

const schema = z.looseObject({
  model_type: z.literal("bloom"),
  vocab_size: size,
  hidden_size: size.optional(),
  n_embed: size.optional(),
  n_layer: layerCount,
  n_head: size.optional(),
  /** BLOOM-560M and some others call `n_head` so. */
  num_attention_heads: size.optional(),
  layer_norm_epsilon: z.number().positive().default(1e-5),
  apply_residual_connection_post_layernorm: z.boolean().default(false),
  initializer_range: z.number().positive().default(0.02),
  /** Tokens of the training sequences; the model has no limit of its own. */
  seq_length: size.default(2048),
  tie_word_embeddings: z.boolean().default(true),
});

type BloomConfig = z.output<typeof schema> & { hidden_size: number; n_head: number };

function readConfig(json: unknown, file: string): BloomConfig {
  const parsed = parseConfig(schema, json, file);
  const [hidden, heads] = [parsed.hidden_size ?? parsed.n_embed, parsed.n_head ?? parsed.num_attention_heads];
  if (hidden === undefined) throw badConfig(file, ['"hidden_size" is missing']);
  if (heads === undefined) throw badConfig(file, ['"n_head" is missing']);
  if (hidden % heads !== 0) throw badConfig(file, [`"hidden_size" (${hidden}) must be a multiple of "n_head" (${heads})`]);
  return { ...parsed, hidden_size: hidden, n_head: heads };
}

/** Slope of each head: a geometric sequence; where the number of heads is no power of two, every second one of the next finer sequence follows. */
export function alibiSlopes(heads: number): number[] {
  const whole = 2 ** Math.floor(Math.log2(heads));
  const sequence = (count: number) => Array.from({ length: count }, (_, i) => 2 ** ((-8 * (i + 1)) / count));
  return [...sequence(whole), ...sequence(2 * whole).filter((_, i) => i % 2 === 0)].slice(0, heads);
}

class BloomAttention extends Module {
  readonly query_key_value: Layer;
  readonly dense: Layer;
  readonly #heads: number;

  constructor({ hidden_size: hidden, n_head }: BloomConfig, init: Initializer) {
    super();
    this.#heads = n_head;
    this.query_key_value = new Linear(hidden, 3 * hidden, { init, bias: true });
    this.dense = new Linear(hidden, hidden, { init, bias: true });
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const [q, key, value] = splitByHead(this.query_key_value.forward(x), this.#heads);
    const present = { key, value };
    const mixed = attend(q, present, past, context, { bias: this.#bias(context) });
    return { y: this.dense.forward(joinHeads(mixed)), present };
  }

  /** slope · position of the key, [batch, heads, 1, keys]: the query's own position would add one number to a whole row, which softmax ignores. */
  #bias({ keyPositions }: DecoderContext): Tensor {
    const slopes = currentGraph().constant("float32", [1, this.#heads, 1, 1], Float32Array.from(alibiSlopes(this.#heads)));
    const [batch, keys] = keyPositions.shape as [Tensor["shape"][number], Tensor["shape"][number]];
    return mul(slopes, reshape(cast(keyPositions, "float32"), [batch, 1, 1, keys]));
  }
}

class BloomMLP extends Module {
  readonly dense_h_to_4h: Layer;
  readonly dense_4h_to_h: Layer;

  constructor({ hidden_size: hidden }: BloomConfig, init: Initializer) {
    super();
    this.dense_h_to_4h = new Linear(hidden, 4 * hidden, { init, bias: true });
    this.dense_4h_to_h = new Linear(4 * hidden, hidden, { init, bias: true });
  }

  forward(x: Tensor): Tensor {
    return this.dense_4h_to_h.forward(geluTanh(this.dense_h_to_4h.forward(x)));
  }
}

class BloomBlock extends Module {
  readonly input_layernorm: LayerNorm;
  readonly self_attention: BloomAttention;
  readonly post_attention_layernorm: LayerNorm;
  readonly mlp: BloomMLP;
  readonly #residualAfterNorm: boolean;

  constructor(config: BloomConfig, init: Initializer) {
    super();
    this.#residualAfterNorm = config.apply_residual_connection_post_layernorm;
    this.input_layernorm = new LayerNorm(config.hidden_size, config.layer_norm_epsilon);
    this.self_attention = new BloomAttention(config, init);
    this.post_attention_layernorm = new LayerNorm(config.hidden_size, config.layer_norm_epsilon);
    this.mlp = new BloomMLP(config, init);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const normed = this.input_layernorm.forward(x);
    const { y, present } = this.self_attention.forward(normed, context, past);
    const attended = add(this.#residualAfterNorm ? normed : x, y);
    const again = this.post_attention_layernorm.forward(attended);
    return { y: add(this.#residualAfterNorm ? again : attended, this.mlp.forward(again)), present };
  }
}

class BloomModel extends DecoderModel {
  readonly word_embeddings: Embedding;
  readonly word_embeddings_layernorm: LayerNorm;
  readonly h: BloomBlock[];
  readonly ln_f: LayerNorm;

  constructor(config: BloomConfig, init: Initializer) {
    super();
    this.word_embeddings = new Embedding(config.vocab_size, config.hidden_size, { init });
    this.word_embeddings_layernorm = new LayerNorm(config.hidden_size, config.layer_norm_epsilon);
    this.h = Array.from({ length: config.n_layer }, () => new BloomBlock(config, init));
    this.ln_f = new LayerNorm(config.hidden_size, config.layer_norm_epsilon);
  }

  get embedding(): Embedding {
    return this.word_embeddings;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    const embedded = this.word_embeddings_layernorm.forward(this.embed(inputs));
    const { hidden, present } = runLayers(this.h, embedded, inputs, new DecoderContext(inputs, embedded));
    return { hidden: this.ln_f.forward(hidden), present };
  }
}

export const bloom = decoderFamily<BloomConfig>({
  name: "Bloom",
  models: "BLOOM, BLOOMZ",
  modelTypes: ["bloom"],
  prefix: "transformer",
  readConfig,
  decoder: (config, init) => new BloomModel(config, init),
  deviation: (config) => config.initializer_range,
  contextLength: (config) => config.seq_length,
  tied: (config) => config.tie_word_embeddings,
});
