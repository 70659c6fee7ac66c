/** Models that read one sequence and write another: what the rest of the house knows of them. */
import { atPath, EspalierError, type Tensor } from "../graph/index.ts";
import { type DecoderInputs, type DecoderOutputs, type Embedding, type KeyValues, type Layer, Module } from "../nn/index.ts";
import { linear } from "../ops/index.ts";
import type { LanguageModelConfig } from "./causal-lm.ts";

/** What the decoder sees of the encoded sequence. */
export interface Encoded {
  /** One entry per decoder layer: keys and values of the encoder's states, [batch, heads, source, width]. They serve every step. */
  keyValues: readonly KeyValues[];
  /** Added to the scores of cross-attention, broadcasts against [batch, heads, time, source]; undefined where everything may be seen. */
  mask?: Tensor | undefined;
}

/** An encoder–decoder. `Source` is what the encoder reads: ids and their mask for text, features for speech. */
export abstract class Seq2SeqLM<
  Source extends Readonly<Record<string, Tensor | undefined>> = Readonly<Record<string, Tensor | undefined>>,
> extends Module {
  /** The class's name in transformers, as config.json states it. */
  abstract readonly architecture: string;
  abstract readonly config: LanguageModelConfig;
  /** Tokens that end an answer, besides those that `config` names: a loader sets what `generation_config.json` adds. */
  endIds: readonly number[] = [];
  /** Tokens that the decoder can write; Infinity where nothing limits it. */
  abstract get contextLength(): number;
  /** Tokens of a source that the encoder can read; Infinity where nothing limits it. */
  get sourceLength(): number {
    return Number.POSITIVE_INFINITY;
  }
  /** The token that every answer starts from, and is not part of it. */
  abstract get startId(): number;
  /** The decoder's table of tokens. */
  abstract get embedding(): Embedding;
  /** The output head; undefined where the embedding serves as the head. */
  abstract get head(): Layer | undefined;
  /** What the encoder makes of a source, [batch, source, width]. */
  abstract states(source: Source): Tensor;
  /** Keys and values of the encoder's states, as {@link Encoded} holds them. */
  abstract keyValues(states: Tensor): readonly KeyValues[];

  /** Hides what of a source is padding; see {@link Encoded}. */
  sourceMask(_source: Source): Tensor | undefined {
    return undefined;
  }

  encode(source: Source): Encoded {
    return { keyValues: this.keyValues(this.states(source)), mask: this.sourceMask(source) };
  }

  /** Continues the answer: `inputs` are the decoder's own tokens, with `past` as in a decoder. */
  abstract decode(inputs: DecoderInputs, encoded: Encoded): DecoderOutputs;

  /** The whole model, as in training: source and the answer's tokens so far → the decoder's states. */
  forward(source: Source, inputs: DecoderInputs): DecoderOutputs {
    if (inputs.documentStarts)
      throw new EspalierError(
        "packed-rows",
        `${this.architecture} reads one source for each row, so its answers cannot be packed several to a row. Give each a row of its own.`,
      );
    return this.decode(inputs, this.encode(source));
  }

  /** hidden [..., width] → [..., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.head ? this.head.forward(hidden) : atPath("lm_head", () => linear(hidden, this.embedding.table));
  }
}

/** Text in, text out: ids int64 [batch, source], and a mask with 1 where there is a token. */
export type TextSource = { ids: Tensor; attentionMask?: Tensor | undefined };

/** The builder's answer to a checkpoint that holds a head of its own. */
export interface Seq2SeqOptions {
  seed?: number;
  /** Whether the head has a weight of its own instead of the embedding's. */
  ownHead?: boolean;
}
