/** Models that hear a waveform: what the rest of the house knows of them, and the head that spells, the same for every family. */
import { Random, type Tensor } from "../graph/index.ts";
import { type Initializer, type Layer, Linear, Module, normal } from "../nn/index.ts";
import type { Family } from "./family.ts";

export interface SpeechInputs {
  /** The waveforms, as the checkpoint's audio processor makes them: float32 [batch, samples], with the number of samples as a number. */
  values: Tensor;
  /** int64 [batch, samples]: 1 where there is sound, 0 where there is padding on its right. Default: sound everywhere. */
  attentionMask?: Tensor | undefined;
}

export interface SpeechFeatures {
  /** [batch, frames, width]. */
  hidden: Tensor;
  /** int64 [batch]: the frames of each sound, padding not counted; undefined where no mask was given. */
  lengths: Tensor | undefined;
}

/** An encoder of sounds without heads. */
export abstract class SpeechEncoder extends Module {
  abstract override forward(inputs: SpeechInputs): SpeechFeatures;
}

/** The fields of `config.json` that the head needs. */
export interface SpeechConfig {
  vocab_size: number;
  hidden_size: number;
  initializer_range: number;
  /** The blank of connectionist temporal classification. */
  pad_token_id: number;
  [key: string]: unknown;
}

/** A family of speech encoders: its bare models and its recognisers follow. */
export interface SpeechFamilyOptions<C extends SpeechConfig>
  extends Pick<Family<C>, "models" | "modelTypes" | "prefix" | "rename" | "derived"> {
  /** As in the class names of transformers. */
  name: string;
  readConfig(json: unknown, file: string): C;
  encoder(config: C, init: Initializer): SpeechEncoder;
}

/** An encoder, under the name that it has in checkpoints with a head. */
export class SpeechModel extends Module {
  readonly architecture: string;
  readonly config: SpeechConfig;
  readonly #prefix: string;

  constructor(options: SpeechFamilyOptions<SpeechConfig>, config: SpeechConfig, seed = 0) {
    super();
    this.architecture = `${options.name}Model`;
    this.config = config;
    this.#prefix = options.prefix;
    Object.assign(this, { [this.#prefix]: options.encoder(config, normal(new Random(seed), config.initializer_range)) });
    this.assignNames();
  }

  get encoder(): SpeechEncoder {
    return (this as unknown as Record<string, SpeechEncoder>)[this.#prefix]!;
  }

  forward(inputs: SpeechInputs): SpeechFeatures {
    return this.encoder.forward(inputs);
  }
}

/**
 * An encoder whose frames are spelt: logits over letters and a blank (Graves et al., "Connectionist Temporal Classification: Labelling Unsegmented
 * Sequence Data with Recurrent Neural Networks").
 */
export class CtcModel extends Module {
  readonly architecture: string;
  readonly config: SpeechConfig;
  declare readonly lm_head: Layer;
  /** Whether the head has initial values only, because no checkpoint brought any. */
  headIsFresh = true;
  /** Paths of the modules that a checkpoint brought no values for. An adapter has to bring theirs. */
  freshModules: readonly string[] = [];
  readonly #prefix: string;

  constructor(options: SpeechFamilyOptions<SpeechConfig>, config: SpeechConfig, seed = 0) {
    super();
    this.architecture = `${options.name}ForCTC`;
    this.config = config;
    this.#prefix = options.prefix;
    const init = normal(new Random(seed), config.initializer_range);
    const head = new Linear(config.hidden_size, config.vocab_size, { init, bias: true });
    Object.assign(this, { [this.#prefix]: options.encoder(config, init), lm_head: head });
    this.assignNames();
  }

  get encoder(): SpeechEncoder {
    return (this as unknown as Record<string, SpeechEncoder>)[this.#prefix]!;
  }

  /** The id that stands for no letter. */
  get blank(): number {
    return this.config.pad_token_id;
  }

  /** Logits [batch, frames, vocabulary], and the frames of each sound as in {@link SpeechFeatures}. */
  forward(inputs: SpeechInputs): { logits: Tensor; lengths: Tensor | undefined } {
    const { hidden, lengths } = this.encoder.forward(inputs);
    return { logits: this.lm_head.forward(hidden), lengths };
  }
}

/** The family of a speech encoder, for the table. */
export const speechFamily = <C extends SpeechConfig>(options: SpeechFamilyOptions<C>): Family<C> => ({
  ...options,
  speechModel: (config, seed) => new SpeechModel(options as never, config, seed),
  ctcModel: (config, seed) => new CtcModel(options as never, config, seed),
});
