/** What the rest of the house knows of a decoder language model, whatever its family. */
import { atPath, EspalierError, type Tensor } from "../graph/index.ts";
import { type DecoderInputs, type DecoderOutputs, type EmbeddingLayer, type Layer, Module } from "../nn/index.ts";
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
  abstract get embedding(): EmbeddingLayer;
  abstract override forward(inputs: DecoderInputs): DecoderOutputs;

  /** Places of the context that are taken before the first token, as by a learnt prompt. */
  get virtualTokens(): number {
    return 0;
  }

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
  /** Tokens that end an answer, besides those that `config` names: a loader sets what `generation_config.json` adds. */
  endIds: readonly number[] = [];
  /** Tokens of prompt and answer together that the model can see. */
  abstract get contextLength(): number;
  abstract get decoder(): DecoderModel;
  /** The output head; undefined where the embedding serves as the head. */
  abstract get head(): Layer | undefined;

  /** Path of the output head, also where there is none of its own. */
  get headPath(): string {
    return "lm_head";
  }

  /**
   * Gives the model a head of its own, with the values that the embedding has now: what changes one of them from here on leaves the other.
   * Returns how the two are tied again. A model that has a head of its own stays as it is.
   *
   * @param _head the head to put in place, where the model had one before it was tied again
   */
  untieHead(_head?: Layer): () => void {
    if (this.head) return () => {};
    throw new EspalierError("cannot-untie", `The head of ${this.architecture} cannot be untied from its embedding.`);
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    return this.decoder.forward(inputs);
  }

  /** hidden [..., width] → [..., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.head ? this.head.forward(hidden) : atPath("lm_head", () => linear(hidden, this.decoder.embedding.table));
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
  /** Paths of the modules that a checkpoint brought no values for: the head, and a pooler below it. An adapter has to bring theirs. */
  freshModules: readonly string[] = [];
  /** `ids` int64 [batch, time], right-padded; `lengths` int64 [batch]: the tokens of each row → logits [batch, labels]. */
  abstract override forward(ids: Tensor, lengths: Tensor): Tensor;
}
