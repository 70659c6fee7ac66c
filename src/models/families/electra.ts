/**
 * ELECTRA (Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators"): BERT's layers, and
 * - an embedding that may be narrower than the layers (`embedding_size`), with a projection between
 * - no pooler; the classification head (dense, GELU, projection) reads the first token
 * - the generator's masked-language-model head goes back to the embedding's width
 */
import { z } from "zod";
import type { Tensor } from "../../graph/index.ts";
import { activations, type Embedding, type Initializer, type Layer, LayerNorm, Linear, Module, type Parameter } from "../../nn/index.ts";
import { size } from "../read-config.ts";
import { type EncoderInputs, type EncoderOutputs, encoderFamily, paddingMask, TextEncoder } from "../text-encoder.ts";
import { type BertConfig, BertEmbeddings, BertEncoder, bertFields, logitBias, modernNorms, readBertConfig } from "./bert.ts";
import { FirstTokenHead } from "./roberta.ts";

const schema = z.looseObject({ model_type: z.literal("electra"), ...bertFields, embedding_size: size.default(128) });

type ElectraConfig = BertConfig & { embedding_size: number };

class ElectraModel extends TextEncoder {
  readonly embeddings: BertEmbeddings;
  readonly embeddings_project: Layer | undefined;
  readonly encoder: BertEncoder;

  constructor(config: ElectraConfig, init: Initializer) {
    super();
    const { embedding_size: width, hidden_size: hidden } = config;
    this.embeddings = new BertEmbeddings(config, width, init);
    this.embeddings_project = width === hidden ? undefined : new Linear(width, hidden, { init, bias: true });
    this.encoder = new BertEncoder(config, init);
  }

  get embedding(): Embedding {
    return this.embeddings.word_embeddings;
  }

  forward(inputs: EncoderInputs): EncoderOutputs {
    const embedded = this.embeddings.forward(inputs);
    const wide = this.embeddings_project?.forward(embedded) ?? embedded;
    return { hidden: this.encoder.forward(wide, paddingMask(inputs.attentionMask)) };
  }
}

class ElectraGeneratorPredictions extends Module {
  readonly LayerNorm: LayerNorm;
  readonly dense: Layer;

  constructor(config: ElectraConfig, init: Initializer) {
    super();
    this.LayerNorm = new LayerNorm(config.embedding_size, config.layer_norm_eps);
    this.dense = new Linear(config.hidden_size, config.embedding_size, { init, bias: true });
  }

  forward(x: Tensor): Tensor {
    return this.LayerNorm.forward(activations.gelu(this.dense.forward(x)));
  }
}

/** What is left of a projection whose weight is the embedding's table. */
export class TiedProjection extends Module {
  readonly bias: Parameter;

  constructor(vocabulary: number) {
    super();
    this.bias = logitBias(vocabulary);
  }

  forward(): void {}
}

export const electra = encoderFamily<ElectraConfig>({
  name: "Electra",
  models: "ELECTRA",
  modelTypes: ["electra"],
  prefix: "electra",
  rename: modernNorms,
  // The generator's weight is the embedding's table; the discriminator's head tells replaced tokens, which is no task here.
  derived: /embeddings\.position_ids$|^generator_lm_head\.weight$|^discriminator_predictions\./,
  readConfig: (json, file) => readBertConfig(schema, json, file),
  encoder: (config, init) => new ElectraModel(config, init),
  width: (config) => config.hidden_size,
  deviation: (config) => config.initializer_range,
  contextLength: (config) => config.max_position_embeddings,
  maskedLMHead: (config, init) => ({
    modules: {
      generator_predictions: new ElectraGeneratorPredictions(config, init),
      generator_lm_head: new TiedProjection(config.vocab_size),
    },
    forward: ({ generator_predictions }, hidden) => (generator_predictions as ElectraGeneratorPredictions).forward(hidden),
    bias: ({ generator_lm_head }) => (generator_lm_head as TiedProjection).bias,
  }),
  sequenceHead: (config, init, labels) => ({
    modules: { classifier: new FirstTokenHead(config.hidden_size, labels, "gelu", init) },
    forward: ({ classifier }, { hidden }) => (classifier as FirstTokenHead).forward(hidden),
    last: ({ classifier }) => (classifier as FirstTokenHead).out_proj,
  }),
  pooled: false,
});
