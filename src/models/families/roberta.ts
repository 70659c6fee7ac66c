/**
 * RoBERTa (Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach") and XLM-R (Conneau et al., "Unsupervised Cross-lingual Representation
 * Learning at Scale"): BERT's layers, and
 * - positions are counted from the id of the padding token on, and padding is not counted
 * - one token type
 * - the classification head (dense, tanh, projection) reads the first token
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import {
  type ActivationName,
  activations,
  type Initializer,
  type Layer,
  LayerNorm,
  Linear,
  Module,
  type Parameter,
} from "../../nn/index.ts";
import { add, cumSum, mul, range, unsqueeze } from "../../ops/index.ts";
import { type EncoderInputs, type EncoderOutputs, encoderFamily, firstToken, paddingMask } from "../text-encoder.ts";
import { type BertConfig, BertModel, bertFields, logitBias, modernNorms, readBertConfig } from "./bert.ts";

const schema = z.looseObject({
  model_type: z.enum(["roberta", "xlm-roberta", "camembert"]),
  ...bertFields,
  pad_token_id: z.int().nonnegative().default(1),
});

type RobertaConfig = BertConfig & { model_type: string; pad_token_id: number };

class RobertaModel extends BertModel {
  readonly #padding: number;

  constructor(config: RobertaConfig, init: Initializer) {
    super(config, init, false);
    this.#padding = config.pad_token_id;
  }

  override forward(inputs: EncoderInputs): EncoderOutputs {
    const { ids, attentionMask } = inputs;
    const count = attentionMask ? mul(cumSum(attentionMask, 1), attentionMask) : add(unsqueeze(range(ids.shape[1]!), 0), 1);
    const embedded = this.embeddings.forward(inputs, add(count, this.#padding));
    return { hidden: this.encoder.forward(embedded, paddingMask(attentionMask)) };
  }
}

class RobertaLMHead extends Module {
  readonly dense: Layer;
  readonly layer_norm: LayerNorm;
  readonly bias: Parameter;

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.dense = new Linear(config.hidden_size, config.hidden_size, { init, bias: true });
    this.layer_norm = new LayerNorm(config.hidden_size, config.layer_norm_eps);
    this.bias = logitBias(config.vocab_size);
  }

  forward(x: Tensor): Tensor {
    return this.layer_norm.forward(activations.gelu(this.dense.forward(x)));
  }
}

/** dense, an activation and a projection on the first token's state. */
export class FirstTokenHead extends Module {
  readonly dense: Layer;
  readonly out_proj: Layer;
  readonly #activation: (x: Tensor) => Tensor;

  constructor(hidden: number, labels: number, activation: ActivationName, init: Initializer) {
    super();
    this.dense = new Linear(hidden, hidden, { init, bias: true });
    this.out_proj = new Linear(hidden, labels, { init, bias: true });
    this.#activation = activations[activation];
  }

  forward(hidden: Tensor): Tensor {
    return this.out_proj.forward(this.#activation(this.dense.forward(firstToken(hidden))));
  }
}

const classNames: Readonly<Record<string, string>> = { roberta: "Roberta", "xlm-roberta": "XLMRoberta", camembert: "Camembert" };

export const roberta = encoderFamily<RobertaConfig>({
  name: ({ model_type }) => classNames[model_type]!,
  models: "RoBERTa, XLM-R, CamemBERT",
  modelTypes: ["roberta", "xlm-roberta", "camembert"],
  prefix: "roberta",
  rename: modernNorms,
  // The head's weight is the embedding's table, which some checkpoints hold again.
  derived: /embeddings\.position_ids$|^lm_head\.decoder\./,
  optional: /^roberta\.pooler\./,
  readConfig: (json, file) => readBertConfig(schema, json, file),
  encoder: (config, init) => new RobertaModel(config, init),
  width: (config) => config.hidden_size,
  deviation: (config) => config.initializer_range,
  // Positions begin after the padding's.
  contextLength: (config) => config.max_position_embeddings - config.pad_token_id - 1,
  maskedLMHead: (config, init) => ({
    modules: { lm_head: new RobertaLMHead(config, init) },
    forward: ({ lm_head }, hidden) => (lm_head as RobertaLMHead).forward(hidden),
    bias: ({ lm_head }) => (lm_head as RobertaLMHead).bias,
  }),
  sequenceHead: (config, init, labels) => ({
    modules: { classifier: new FirstTokenHead(config.hidden_size, labels, "tanh", init) },
    forward: ({ classifier }, { hidden }) => (classifier as FirstTokenHead).forward(hidden),
    last: ({ classifier }) => (classifier as FirstTokenHead).out_proj,
  }),
  pooled: false,
});
