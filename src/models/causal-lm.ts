/** What the rest of the house knows of a decoder language model, whatever its family. */
import { atPath, EspalierError, type Tensor } from "../graph/index.ts";
import { type DecoderInputs, type DecoderOutputs, type Embedding, type Layer, Module } from "../nn/index.ts";
import { linear } from "../ops/index.ts";

/** The fields of `config.json` that every language model has; a family's own schema adds its own. */
export interface LanguageModelConfig {
  vocab_size: number;
  eos_token_id?: unknown;
  [key: string]: unknown;
}

/** A decoder without a head: token ids → hidden states. */
export abstract class DecoderModel extends Module {
  /** The input embedding. */
  abstract get embedding(): Embedding;
  abstract override forward(inputs: DecoderInputs): DecoderOutputs;

  /** [batch, time, hidden] of `ids`, or the given `embeddings`. */
  protected embed({ ids, embeddings }: DecoderInputs): Tensor {
    if (embeddings) return embeddings;
    if (ids) return this.embedding.forward(ids);
    throw new EspalierError("missing-input", "A decoder needs `ids` or `embeddings`.");
  }
}

/** A decoder with a language-model head. `logits` are computed apart, so that a caller can take them of some positions only. */
export abstract class CausalLM extends Module {
  /** The class's name in transformers, as config.json states it. */
  abstract readonly architecture: string;
  abstract readonly config: LanguageModelConfig;
  /** Tokens of prompt and answer together that the model can see. */
  abstract get contextLength(): number;
  abstract get decoder(): DecoderModel;
  /** The output head; undefined where the embedding serves as the head. */
  abstract get head(): Layer | undefined;

  forward(inputs: DecoderInputs): DecoderOutputs {
    return this.decoder.forward(inputs);
  }

  /** hidden [..., width] → [..., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.head ? this.head.forward(hidden) : atPath("lm_head", () => linear(hidden, this.decoder.embedding.weight.value));
  }
}

/** A model that gives each sequence logits over classes. */
export abstract class SequenceClassifier extends Module {
  abstract readonly architecture: string;
  abstract readonly config: LanguageModelConfig;
  abstract get contextLength(): number;
  /** The layer whose rows are the classes. */
  abstract get head(): Layer;
  /** Whether the head has initial values only, because no checkpoint brought any. */
  headIsFresh = true;
  /** `ids` int64 [batch, time], right-padded; `lengths` int64 [batch]: the tokens of each row → logits [batch, labels]. */
  abstract override forward(ids: Tensor, lengths: Tensor): Tensor;
}
