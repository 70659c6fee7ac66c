/** Speech → tokens, with an encoder–decoder. */
import { EspalierError, symbol } from "../graph/index.ts";
import type { WhisperForConditionalGeneration } from "../models/families/whisper.ts";
import type { Device, HostTensor } from "../runtime/index.ts";
import { type BeamSearchOptions, beamSearch } from "./beam-search.ts";
import type { Continuation } from "./decoder.ts";
import { Seq2SeqDecoder } from "./seq2seq-decoder.ts";

/** What a checkpoint says of its answers; {@link whisperSettings} reads it. */
export interface TranscribeOptions extends Omit<BeamSearchOptions, "beams"> {
  /** Default 1, which is greedy. */
  beams?: number;
  /** Tokens that begin every answer: language, task and the like. Of a list the likeliest is taken, for each sound its own. */
  prefix?: readonly (number | readonly number[])[];
  /** Tokens that are never written. */
  suppress?: readonly number[];
  /** Tokens that are not written first, after the prefix. */
  suppressFirst?: readonly number[];
}

/** A recogniser compiled for writing. */
export class Transcriber {
  readonly #decoder: Seq2SeqDecoder;

  private constructor(decoder: Seq2SeqDecoder) {
    this.#decoder = decoder;
  }

  static async create(device: Device, model: WhisperForConditionalGeneration): Promise<Transcriber> {
    const { num_mel_bins: bins, max_source_positions: places } = model.config;
    const types = { features: { dtype: "float32", shape: [symbol("batch"), bins, 2 * places] } } as const;
    return new Transcriber(await Seq2SeqDecoder.create(device, model, types));
  }

  /**
   * @param features log-mel spectrograms [batch, bins, frames], as the checkpoint's audio processor makes them (`input_features`)
   * @returns for each sound the tokens after the prefix, the end token included where there is one
   * @throws EspalierError `bad-option`, `context-overflow`
   */
  async transcribe(features: HostTensor, options: TranscribeOptions): Promise<number[][]> {
    const { prefix = [], suppress = [], suppressFirst = [], beams = 1 } = options;
    const room = this.#decoder.model.contextLength - 1 - prefix.length;
    if (room < 1) throw new EspalierError("context-overflow", `A prefix of ${prefix.length} tokens leaves no room in the model's context.`);
    const decoding = await this.#decoder.startFrom({ features });
    const rows = Array.from({ length: decoding.batch }, (_, row) => row);
    for (const step of prefix) {
      // All must be read before the first is pushed.
      const ids = rows.map((row) => (typeof step === "number" ? step : likeliestOf(step, decoding.logits(row))));
      await decoding.push(ids);
    }
    const maxNewTokens = Math.min(options.maxNewTokens ?? room, room);
    const answers = await beamSearch(suppressing(decoding, suppress, suppressFirst), { ...options, beams, maxNewTokens });
    return answers.map(([best]) => best?.ids ?? []);
  }

  dispose(): Promise<void> {
    return this.#decoder.dispose();
  }
}

const likeliestOf = (ids: readonly number[], logits: Float32Array): number => ids.reduce((a, b) => (logits[b]! > logits[a]! ? b : a));

/** A continuation in which some tokens are never chosen, and some others not as the first. */
function suppressing(inner: Continuation, always: readonly number[], first: readonly number[]): Continuation {
  let pushed = false;
  return {
    get batch() {
      return inner.batch;
    },
    logits(row) {
      const logits = inner.logits(row);
      for (const id of pushed ? always : [...always, ...first]) logits[id] = Number.NEGATIVE_INFINITY;
      return logits;
    },
    async push(ids) {
      pushed = true;
      await inner.push(ids);
    },
    reorder(rows) {
      inner.reorder(rows);
    },
  };
}
