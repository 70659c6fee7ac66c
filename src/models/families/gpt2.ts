/**
 * GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners"):
 * - learned positions, added to the embedding; LayerNorm before attention and feed-forward, and after the last layer
 * - `c_attn` makes queries, keys and values; feed-forward of four times the width with the tanh form of GELU
 * - weights lie as [in, out] ("Conv1D"), biases everywhere
 * - the embedding serves as the head
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  activationNames,
  activations,
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
  splitHeads,
} from "../../nn/index.ts";
import { add, split } from "../../ops/index.ts";
import { DecoderModel } from "../causal-lm.ts";
import { decoderFamily } from "../decoder-family.ts";
import { badConfig, layerCount, parseConfig, size } from "../read-config.ts";

const schema = z.looseObject({
  model_type: z.literal("gpt2"),
  vocab_size: size,
  n_embd: size,
  n_layer: layerCount,
  n_head: size,
  n_inner: size.nullish(),
  n_positions: size.default(1024),
  layer_norm_epsilon: z.number().positive().default(1e-5),
  activation_function: z.enum(activationNames).default("gelu_new"),
  initializer_range: z.number().positive().default(0.02),
  tie_word_embeddings: z.boolean().default(true),
  // What else the format can say is not computed, and must not be passed over.
  scale_attn_weights: z.literal(true).default(true),
  scale_attn_by_inverse_layer_idx: z.literal(false).default(false),
  add_cross_attention: z.literal(false).default(false),
});

type Gpt2Config = z.output<typeof schema>;

function readConfig(json: unknown, file: string): Gpt2Config {
  const config = parseConfig(schema, json, file);
  if (config.n_embd % config.n_head !== 0)
    throw badConfig(file, [`"n_embd" (${config.n_embd}) must be a multiple of "n_head" (${config.n_head})`]);
  return config;
}

const conv1d = (inputs: number, outputs: number, init: Initializer) => new Linear(inputs, outputs, { init, bias: true, layout: "in-out" });

class Gpt2Attention extends Module {
  readonly c_attn: Layer;
  readonly c_proj: Layer;
  readonly #heads: number;

  constructor({ n_embd: hidden, n_head }: Gpt2Config, init: Initializer) {
    super();
    this.#heads = n_head;
    this.c_attn = conv1d(hidden, 3 * hidden, init);
    this.c_proj = conv1d(hidden, hidden, init);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const [q, key, value] = split(this.c_attn.forward(x), 3).map((t) => splitHeads(t, this.#heads)) as [Tensor, Tensor, Tensor];
    const present = { key, value };
    return { y: this.c_proj.forward(joinHeads(attend(q, present, past, context))), present };
  }
}

class Gpt2MLP extends Module {
  readonly c_fc: Layer;
  readonly c_proj: Layer;
  readonly #activation: Gpt2Config["activation_function"];

  constructor(config: Gpt2Config, init: Initializer) {
    super();
    const inner = config.n_inner ?? 4 * config.n_embd;
    this.#activation = config.activation_function;
    this.c_fc = conv1d(config.n_embd, inner, init);
    this.c_proj = conv1d(inner, config.n_embd, init);
  }

  forward(x: Tensor): Tensor {
    return this.c_proj.forward(activations[this.#activation](this.c_fc.forward(x)));
  }
}

class Gpt2Block extends Module {
  readonly ln_1: LayerNorm;
  readonly attn: Gpt2Attention;
  readonly ln_2: LayerNorm;
  readonly mlp: Gpt2MLP;

  constructor(config: Gpt2Config, init: Initializer) {
    super();
    this.ln_1 = new LayerNorm(config.n_embd, config.layer_norm_epsilon);
    this.attn = new Gpt2Attention(config, init);
    this.ln_2 = new LayerNorm(config.n_embd, config.layer_norm_epsilon);
    this.mlp = new Gpt2MLP(config, init);
  }

  forward(x: Tensor, context: DecoderContext, past?: KeyValues): { y: Tensor; present: KeyValues } {
    const { y, present } = this.attn.forward(this.ln_1.forward(x), context, past);
    const attended = add(x, y);
    return { y: add(attended, this.mlp.forward(this.ln_2.forward(attended))), present };
  }
}

class Gpt2Model extends DecoderModel {
  readonly wte: Embedding;
  readonly wpe: Embedding;
  readonly h: Gpt2Block[];
  readonly ln_f: LayerNorm;

  constructor(config: Gpt2Config, init: Initializer) {
    super();
    this.wte = new Embedding(config.vocab_size, config.n_embd, { init });
    this.wpe = new Embedding(config.n_positions, config.n_embd, { init });
    this.h = Array.from({ length: config.n_layer }, () => new Gpt2Block(config, init));
    this.ln_f = new LayerNorm(config.n_embd, config.layer_norm_epsilon);
  }

  get embedding(): Embedding {
    return this.wte;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    const embedded = this.embed(inputs);
    const context = new DecoderContext(inputs, embedded);
    const { hidden, present } = runLayers(this.h, add(embedded, this.wpe.forward(context.positions)), inputs, context);
    return { hidden: this.ln_f.forward(hidden), present };
  }
}

export const gpt2 = decoderFamily<Gpt2Config>({
  name: "GPT2",
  className: (_, task) => (task === "ForCausalLM" ? "GPT2LMHeadModel" : undefined),
  models: "GPT-2, DistilGPT-2",
  modelTypes: ["gpt2"],
  prefix: "transformer",
  // Masks that old checkpoints carry along.
  derived: /\.attn\.(masked_)?bias$/,
  readConfig,
  decoder: (config, init) => new Gpt2Model(config, init),
  deviation: (config) => config.initializer_range,
  contextLength: (config) => config.n_positions,
  tied: (config) => config.tie_word_embeddings,
});
