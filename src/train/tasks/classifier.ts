import { classificationBatches, type EncodedExample, type Truncation } from "../../data/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { SequenceClassifier } from "../../models/causal-lm.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { sequenceClassification } from "../objectives/index.ts";
import { lengthBuckets, padIdOf } from "./loaded-text.ts";
import { largestOf, rowsOfLogits, softmaxOf } from "./rows-of-logits.ts";
import { SequenceEncoder, type SequenceEncoderOptions } from "./sequence-encoder.ts";

export interface ClassifierOptions extends SequenceEncoderOptions {
  labels: readonly string[];
}

export interface Prediction {
  label: string;
  /** Probability of each label, in the order of the labels. */
  probabilities: readonly number[];
}

/** A classifier ready to be asked. */
export class Classifier {
  readonly labels: readonly string[];
  readonly #encoder: SequenceEncoder;
  readonly #evaluator: Evaluator;
  readonly #options: { padId: number; maxLength: number };

  constructor(model: SequenceClassifier, tokenizer: Tokenizer, device: Device, options: ClassifierOptions) {
    this.labels = options.labels;
    this.#encoder = new SequenceEncoder(tokenizer, options);
    this.#evaluator = new Evaluator(device, sequenceClassification(model));
    this.#options = { padId: padIdOf(tokenizer), maxLength: options.maxLength };
  }

  async predict(texts: readonly string[]): Promise<{ predictions: Prediction[]; truncation: Truncation }> {
    const { examples, truncation } = this.#encoder.encode(texts.map((text, i) => ({ text, description: `text ${i + 1}` })));
    const { logits } = await this.logits(examples, Math.min(16, Math.max(1, examples.length)));
    return { predictions: logits.map((row) => this.#prediction(row)), truncation };
  }

  /** Logits of every example, and the mean loss of those with labels. */
  async logits(
    examples: readonly EncodedExample[],
    batchSize: number,
    onProgress?: (done: number, of: number) => void,
  ): Promise<{ logits: Float32Array[]; loss: number }> {
    const { padId, maxLength } = this.#options;
    const source = classificationBatches(examples, { batchSize, padId, buckets: lengthBuckets(maxLength), shuffle: false });
    return rowsOfLogits(this.#evaluator, source, examples.length, onProgress);
  }

  #prediction(logits: Float32Array): Prediction {
    const probabilities = softmaxOf(logits);
    return { label: this.labels[largestOf(probabilities)]!, probabilities };
  }

  dispose(): Promise<void> {
    return this.#evaluator.dispose();
  }
}
