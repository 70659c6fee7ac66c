import { type Example, paddedBatches, paddedRows, type Truncation } from "../../data/index.ts";
import type { BatchRows } from "../../data/padded-batches.ts";
import type { TokenCacheOptions } from "../../data/records.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import { type Device, hostTensor } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import type { Objective } from "../objectives/index.ts";
import { lengthBuckets, padIdOf } from "./loaded-text.ts";
import { rowsOfLogits } from "./rows-of-logits.ts";
import { SequenceEncoder, type SequenceEncoderOptions } from "./sequence-encoder.ts";

export interface ValuedText {
  ids: readonly number[];
  length: number;
  /** What the model's outputs are to be. */
  values: readonly number[];
  description: string;
}

/** Texts and numbers: the batches of `sequenceRegression` and `multiLabelClassification`, and the outputs of their models. */
export class SequenceOutputs {
  readonly #encoder: SequenceEncoder;
  readonly #evaluator: Evaluator;
  readonly #buckets: readonly number[];
  readonly #padId: number;

  constructor(tokenizer: Tokenizer, device: Device, objective: Objective, options: SequenceEncoderOptions) {
    this.#encoder = new SequenceEncoder(tokenizer, options);
    this.#evaluator = new Evaluator(device, objective);
    this.#buckets = lengthBuckets(options.maxLength);
    this.#padId = padIdOf(tokenizer);
  }

  encode<E extends Example>(
    examples: readonly E[],
    values: (example: E) => number[],
    cache?: TokenCacheOptions,
  ): { examples: ValuedText[]; truncation: Truncation } {
    const texts = examples.map(({ text, file, line }) => ({ text, description: `${file}:${line}` }));
    const encoded = this.#encoder.encode(texts, cache);
    return {
      examples: encoded.examples.map(({ ids, description }, i) => ({ ids, length: ids.length, values: values(examples[i]!), description })),
      truncation: encoded.truncation,
    };
  }

  batches(examples: readonly ValuedText[], options: { batchSize: number; seed?: number; shuffle?: boolean }) {
    const width = examples[0]?.values.length ?? 0;
    const feeds = ({ examples, batchSize, length }: BatchRows<ValuedText>) => {
      const [values, weights] = [new Float32Array(batchSize * width), new Float32Array(batchSize)];
      for (const [row, example] of examples.entries()) {
        values.set(example.values, row * width);
        weights[row] = 1;
      }
      return {
        ids: paddedRows(
          examples.map(({ ids }) => ids),
          batchSize,
          length,
          this.#padId,
        ),
        lengths: hostTensor(
          "int64",
          [batchSize],
          BigInt64Array.from({ length: batchSize }, (_, i) => BigInt(examples[i]?.length ?? 1)),
        ),
        values: hostTensor("float32", [batchSize, width], values),
        weights: hostTensor("float32", [batchSize], weights),
      };
    };
    return paddedBatches(examples, { ...options, buckets: this.#buckets }, feeds);
  }

  /** The outputs for each example. */
  async of(
    examples: readonly ValuedText[],
    batchSize: number,
    onProgress?: (done: number, of: number) => void,
  ): Promise<{ rows: Float32Array[]; loss: number }> {
    const source = this.batches(examples, { batchSize, shuffle: false });
    const { logits, loss } = await rowsOfLogits(this.#evaluator, source, examples.length, onProgress);
    return { rows: logits, loss };
  }

  /** The outputs, `width` of them, for each text. */
  async predict(texts: readonly string[], width: number): Promise<{ rows: Float32Array[]; truncation: Truncation }> {
    const unknown = new Array<number>(width).fill(0);
    const { examples, truncation } = this.encode(
      texts.map((text, i) => ({ text, file: "text", line: i + 1 })),
      () => unknown,
    );
    return { rows: (await this.of(examples, Math.max(1, Math.min(16, texts.length)))).rows, truncation };
  }

  dispose(): Promise<void> {
    return this.#evaluator.dispose();
  }
}
