import { classificationBatches, type EncodedExample, type Example, type Truncation } from "../../data/index.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { SequenceClassifier } from "../../models/causal-lm.ts";
import { DecoderForSequenceClassification } from "../../models/decoder-family.ts";
import { floats, type Linear } from "../../nn/index.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { accuracy, macroF1, majorityClass, precisionRecallF1, rocAuc } from "../metrics/index.ts";
import { sequenceClassification } from "../objectives/index.ts";
import type { Task, TaskRecord } from "./task.ts";

/**
 * How a text is put before a classifier where nothing else is said: its place is marked by `{text}`. A decoder answers at the last token, which the
 * template ends with; an encoder reads the text alone.
 */
export const defaultTemplate = (model: SequenceClassifier): string =>
  model instanceof DecoderForSequenceClassification ? "{text}\n\nLabel:" : "{text}";

export interface ClassifierOptions {
  labels: readonly string[];
  /** See {@link defaultTemplate}. */
  template: string;
  /** Tokens per text, template included. */
  maxLength: number;
}

/** Turns texts into the ids that a classifier reads. Long texts lose their end, never the template. */
export class ClassifierEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #before: readonly number[];
  readonly #after: readonly number[];
  readonly #maxLength: number;

  constructor(tokenizer: Tokenizer, { template, maxLength }: ClassifierOptions) {
    const [before, after, ...more] = template.split("{text}");
    if (after === undefined || more.length > 0)
      throw new EspalierError("bad-option", `The template ${JSON.stringify(template)} must contain {text} once.`);
    const encode = (text: string) => (text === "" ? [] : tokenizer.encode(text, { addSpecialTokens: false }));
    this.#tokenizer = tokenizer;
    const { prefix, suffix } = tokenizer.surroundings;
    // Tokenizers of decoders often add nothing by themselves, though their models were taught a start token.
    const start = prefix.length + suffix.length > 0 || tokenizer.bosId === undefined ? prefix : [tokenizer.bosId];
    this.#before = [...start, ...encode(before!)];
    this.#after = [...encode(after), ...suffix];
    this.#maxLength = maxLength;
    if (this.#room < 1)
      throw new EspalierError(
        "bad-option",
        `A length of ${maxLength} tokens leaves no room for the text: the template alone takes ${this.#before.length + this.#after.length}.`,
      );
  }

  get #room(): number {
    return this.#maxLength - this.#before.length - this.#after.length;
  }

  encode(texts: readonly { text: string; label?: number; description: string }[]): { examples: EncodedExample[]; truncation: Truncation } {
    let count = 0;
    let longest = 0;
    const examples = texts.map(({ text, label, description }) => {
      const ids = this.#tokenizer.encode(text, { addSpecialTokens: false });
      longest = Math.max(longest, ids.length);
      if (ids.length > this.#room) count++;
      return { ids: [...this.#before, ...ids.slice(0, this.#room), ...this.#after], label, description };
    });
    return { examples, truncation: { count, of: texts.length, longest, limit: this.#room } };
  }
}

export interface Prediction {
  label: string;
  /** Probability of each label, in the order of the labels. */
  probabilities: readonly number[];
}

/** A classifier ready to be asked. */
export class Classifier {
  readonly labels: readonly string[];
  readonly #encoder: ClassifierEncoder;
  readonly #evaluator: Evaluator;
  readonly #options: { padId: number; maxLength: number };

  constructor(model: SequenceClassifier, tokenizer: Tokenizer, device: Device, options: ClassifierOptions) {
    this.labels = options.labels;
    this.#encoder = new ClassifierEncoder(tokenizer, options);
    this.#evaluator = new Evaluator(device, sequenceClassification(model));
    this.#options = { padId: tokenizer.padId ?? tokenizer.eosId ?? 0, maxLength: options.maxLength };
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
    const logits: Float32Array[] = new Array(examples.length);
    const { loss } = await this.#evaluator.run(
      source,
      (step, outputs) => {
        const data = outputs.logits!.data as Float32Array;
        for (const [row, index] of source.indices(step).entries())
          if (index >= 0) logits[index] = data.slice(row * this.labels.length, (row + 1) * this.labels.length);
      },
      onProgress,
    );
    // The programs' memory would otherwise stand beside that of training; compiling them again takes a fraction of a second.
    await this.#evaluator.dispose();
    return { logits, loss };
  }

  #prediction(logits: Float32Array): Prediction {
    const top = Math.max(...logits);
    const exps = Array.from(logits, (z) => Math.exp(z - top));
    const total = exps.reduce((a, b) => a + b, 0);
    const probabilities = exps.map((e) => e / total);
    return { label: this.labels[probabilities.indexOf(Math.max(...probabilities))]!, probabilities };
  }

  dispose(): Promise<void> {
    return this.#evaluator.dispose();
  }
}

/** Few lengths, so that few programs are compiled. */
export const lengthBuckets = (maxLength: number): number[] => [
  ...new Set([maxLength / 4, maxLength / 2, maxLength].map((n) => Math.max(1, Math.ceil(n)))),
];

/** The labels of the training examples in alphabetical order; every example must have one, and held-out labels must occur in training. */
export function collectLabels(train: readonly Example[], heldOut: readonly Example[]): string[] {
  const labels = [...new Set(train.map((e) => e.label))].sort() as string[];
  if (labels.length < 2)
    throw new EspalierError(
      "one-label",
      `Classification needs at least two labels in the training data; it has ${labels.length === 1 ? `only "${labels[0]}"` : "none"}.`,
    );
  const bare = heldOut.find((e) => e.label === undefined);
  if (bare)
    throw new EspalierError(
      "no-labels",
      `${bare.file} line ${bare.line}: there is no label, and held-out examples of a classifier need one.`,
    );
  const unseen = heldOut.filter((e) => !labels.includes(e.label!));
  if (unseen.length > 0) {
    const [first] = unseen as [Example];
    throw new EspalierError(
      "unseen-label",
      `${first.file} line ${first.line}: the label "${first.label}" never occurs in the training data (${labels.join(", ")}); ${unseen.length} held-out examples have such labels. Add training examples of it or remove them.`,
    );
  }
  return labels;
}

/**
 * Gives the head the output embedding of each label's first token, so that the untrained model answers as the language model would: the
 * zero-shot baseline, and where training starts from.
 */
export function initialiseHeadFromLabels(
  model: DecoderForSequenceClassification,
  tokenizer: Tokenizer,
  labels: readonly string[],
  device: Device,
): void {
  const { weight } = model.decoder.embedding;
  const width = weight.shape[1]!;
  const table = device.read(weight).data as Float32Array;
  const ids = labels.map((label) => tokenizer.encode(` ${label}`, { addSpecialTokens: false }));
  const distinct = new Set(ids.map(([first]) => first)).size === labels.length;
  const rows = new Float32Array(labels.length * width);
  for (const [row, tokens] of ids.entries()) {
    const used = distinct ? tokens.slice(0, 1) : tokens;
    for (const id of used) for (let i = 0; i < width; i++) rows[row * width + i]! += table[id * width + i]! / used.length;
  }
  (model.score as Linear).weight.storage = floats([labels.length, width], rows);
}

export interface ClassificationTaskOptions extends ClassifierOptions {
  train: readonly Example[];
  heldOut: readonly Example[];
  batchSize: number;
  seed: number;
  /** The label whose F1 and ROC AUC are stated, for two labels. Default: the rarer one in training. */
  positive?: string;
}

/** One label per text. The model's head must have one row per label, in the order of `labels`. */
export function classificationTask(
  model: SequenceClassifier,
  tokenizer: Tokenizer,
  device: Device,
  options: ClassificationTaskOptions,
): Task & { majority: { label: string; accuracy: number } } {
  const { labels, train, heldOut, batchSize, seed } = options;
  const encoder = new ClassifierEncoder(tokenizer, options);
  const prepare = (examples: readonly Example[]) =>
    encoder.encode(examples.map((e) => ({ text: e.text, label: labels.indexOf(e.label!), description: `${e.file}:${e.line}` })));
  const [trainSet, heldSet] = [prepare(train), prepare(heldOut)];
  const actual = heldSet.examples.map((e) => e.label!);
  const counts = labels.map((_, i) => trainSet.examples.filter((e) => e.label === i).length);
  const positive = options.positive ?? (labels.length === 2 ? labels[counts[0]! <= counts[1]! ? 0 : 1]! : undefined);
  if (positive !== undefined && !labels.includes(positive))
    throw new EspalierError("bad-option", `The positive label "${positive}" does not occur in the data (${labels.join(", ")}).`);
  const classifier = new Classifier(model, tokenizer, device, options);
  const majority = majorityClass(trainSet.examples.map((e) => e.label!));
  const record: TaskRecord = {
    task: "classification",
    labels,
    template: options.template,
    maxLength: options.maxLength,
    ...(positive !== undefined && { positive }),
  };
  return {
    name: "classification",
    model,
    objective: sequenceClassification(model),
    train: classificationBatches(trainSet.examples, {
      batchSize,
      padId: tokenizer.padId ?? tokenizer.eosId ?? 0,
      buckets: lengthBuckets(options.maxLength),
      seed,
    }),
    notes: [
      `${train.length} training and ${heldOut.length} held-out texts; labels ${labels.map((l, i) => `${l} ${counts[i]}`).join(", ")} in training`,
      ...[
        ["training", trainSet.truncation],
        ["held-out", heldSet.truncation],
      ].flatMap(([name, t]) => truncationNote(name as string, t as Truncation)),
    ],
    metric: "accuracy",
    majority: { label: labels[majority.label]!, accuracy: actual.filter((l) => l === majority.label).length / actual.length },
    record,
    async evaluate(onProgress) {
      const { logits, loss } = await classifier.logits(heldSet.examples, batchSize, onProgress);
      const predicted = logits.map((row) => row.indexOf(Math.max(...row)));
      const common = { loss, accuracy: accuracy(predicted, actual) };
      if (positive === undefined) return { ...common, macroF1: macroF1(predicted, actual) };
      const p = labels.indexOf(positive);
      const margin = logits.map((row) => row[p]! - row[1 - p]!);
      const { precision, recall, f1 } = precisionRecallF1(predicted, actual, p);
      return {
        ...common,
        f1,
        precision,
        recall,
        rocAuc: rocAuc(
          margin,
          actual.map((l) => l === p),
        ),
      };
    },
    dispose: () => classifier.dispose(),
  };
}

function truncationNote(name: string, { count, of, longest, limit }: Truncation): string[] {
  return count === 0
    ? []
    : [
        `${count} of ${of} ${name} texts are longer than ${limit} tokens (the longest has ${longest}): their ends were cut off; --max-length changes that`,
      ];
}
