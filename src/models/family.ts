import type { CausalLM, SequenceClassifier } from "./causal-lm.ts";
import type { CtcModel, SpeechModel } from "./ctc-model.ts";
import type { ClipModel } from "./families/clip.ts";
import type { WhisperForConditionalGeneration } from "./families/whisper.ts";
import type { ImageClassifier, ImageModel } from "./image-model.ts";
import type { Seq2SeqLM, Seq2SeqOptions, TextSource } from "./seq2seq.ts";
import type { MaskedLM, SentenceEncoder, TokenClassifier } from "./text-encoder.ts";

/** A family of checkpoints: how its `config.json` is read, and the models that can be built from it. */
// biome-ignore lint/suspicious/noExplicitAny: the table of families forgets each one's configuration type; `readConfig` makes what the builders take.
export interface Family<C = any> {
  /** As in the class names of transformers. */
  name: string;
  /** Published models that people know it by. */
  models: string;
  /** The values of `model_type` that it serves. */
  modelTypes: readonly string[];
  /** Path of the model without its heads, as checkpoints with a head have it. Checkpoints without a head leave it out. */
  prefix: string;
  /** @throws EspalierError `bad-config` and what else the family refuses */
  readConfig(json: unknown, file: string): C;
  /** Checkpoint's tensor name → parameter's name, where old checkpoints have another one. Applied after the prefix. */
  rename?(name: string): string;
  /** Tensors that follow from the configuration and are not read, under their name after `rename`. */
  derived?: RegExp;
  /** Parts of the model without heads that checkpoints may lack (they then keep their initial values) or have unused, as BERT's pooler. */
  optional?: RegExp;

  /** Next-token prediction. */
  causalLM?(config: C, seed?: number): CausalLM;
  /** One of several labels for a sequence. */
  sequenceClassifier?(config: C, labels: number, seed?: number): SequenceClassifier;
  /** One of several labels for each token. */
  tokenClassifier?(config: C, labels: number, seed?: number): TokenClassifier;
  /** Masked tokens filled in. */
  maskedLM?(config: C, seed?: number): MaskedLM;
  /** A vector for each text. */
  sentenceEncoder?(config: C, seed?: number): SentenceEncoder;
  /** One sequence in, another out. */
  seq2seq?(config: C, options?: Seq2SeqOptions): Seq2SeqLM<TextSource>;
  /** Images → features. */
  imageModel?(config: C, seed?: number): ImageModel;
  /** One of several labels for an image. */
  imageClassifier?(config: C, labels: readonly string[], seed?: number): ImageClassifier;
  /** Images and texts → embeddings that can be compared. */
  imageTextModel?(config: C, seed?: number): ClipModel;
  /** Waveforms → features. */
  speechModel?(config: C, seed?: number): SpeechModel;
  /** Waveforms → letters or blanks, frame by frame. */
  ctcModel?(config: C, seed?: number): CtcModel;
  /** Spectrograms → text. */
  speechSeq2Seq?(config: C, seed?: number): WhisperForConditionalGeneration;
}

/** The builders of a family: one for each task that it has. */
export type Task =
  | "causalLM"
  | "sequenceClassifier"
  | "tokenClassifier"
  | "maskedLM"
  | "sentenceEncoder"
  | "seq2seq"
  | "imageModel"
  | "imageClassifier"
  | "imageTextModel"
  | "speechModel"
  | "ctcModel"
  | "speechSeq2Seq";

/** What a task is called in messages. */
export const taskNames: Readonly<Record<Task, string>> = {
  causalLM: "a language model",
  sequenceClassifier: "a sequence classifier",
  tokenClassifier: "a token classifier",
  maskedLM: "a masked language model",
  sentenceEncoder: "a sentence encoder",
  seq2seq: "a sequence-to-sequence model",
  imageModel: "an encoder of images",
  imageClassifier: "a classifier of images",
  imageTextModel: "an encoder of images and texts",
  speechModel: "an encoder of speech",
  ctcModel: "a recogniser that spells frame by frame (CTC)",
  speechSeq2Seq: "a recogniser that writes (encoder–decoder)",
};
