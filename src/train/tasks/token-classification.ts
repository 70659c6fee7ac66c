import { z } from "zod";
import { type Example, paddedBatches, paddedRows, paddingMaskRows, type Truncation } from "../../data/index.ts";
import type { BatchRows } from "../../data/padded-batches.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import { namedLabels } from "../../models/family-checkpoint.ts";
import { loadTokenClassifier } from "../../models/load-encoder.ts";
import type { TokenClassifier } from "../../models/text-encoder.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { accuracy, macroF1, marksSpans, spanF1, spansOf } from "../metrics/index.ts";
import { tokenClassification as objectiveOf } from "../objectives/index.ts";
import { exampleRows, listOf } from "./example-rows.ts";
import { defaultLength, type PredictionInput, type TaskKind } from "./kind.ts";
import { type LoadedText, lengthBuckets, loadText, padIdOf } from "./loaded-text.ts";
import { holdsRecords, readInput } from "./prediction-files.ts";
import { largestOf, rowsOfLogits } from "./rows-of-logits.ts";
import { batchesOf, recording, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("token-classification"),
  labels: z.array(z.string()).min(2).readonly(),
  maxLength: z.int().positive(),
  /** Where training was told one. */
  tokensColumn: z.string().optional(),
});
export type TokenClassificationRecord = z.output<typeof record>;

export interface TokensExample extends Example {
  tokens: readonly string[];
  /** The label of each token; null where there is none to learn. */
  target: readonly (string | null)[];
}

const like = '{"tokens": ["Ada", "sings"], "labels": ["B-PER", "O"]}';

/** One label for each word of a text. */
export const tokenClassification: TaskKind<TokensExample, TokenClassificationRecord, LoadedText<TokenClassifier>> = {
  name: "token-classification",
  summary: "one label for each word of a text",
  data: like,
  needs: "tokenClassifier",
  options: ["tokensColumn", "labelColumn"],
  record,
  recognises: ({ record, options: { tokensColumn = "tokens" } }) => record !== undefined && listOf(record, tokensColumn) !== undefined,
  read: (path, { tokensColumn = "tokens", labelColumn = "labels" }) =>
    exampleRows(path, like, (value, place) => {
      const [tokens, labels] = [listOf(value, tokensColumn), listOf(value, labelColumn)];
      if (!tokens?.every((token) => typeof token === "string" && token.trim() !== "") || tokens.length === 0)
        return `has no list of words "${tokensColumn}"`;
      const target = labels?.map((label) => (label === null || typeof label === "object" ? null : String(label)));
      if (!target || labels!.some((label) => label === "" || (label !== null && typeof label === "object")))
        return `has no list of labels "${labelColumn}"`;
      if (target.length !== tokens.length) return `has ${tokens.length} words and ${target.length} labels, of which there must be as many`;
      return { tokens: tokens as string[], target, text: tokens.join(" "), ...place };
    }),
  plan({ directory, config, train, heldOut, options: { maxLength = defaultLength, tokensColumn } }) {
    const labels = train.length > 0 ? labelsOf(train) : namedLabels(config);
    if (!labels)
      throw new EspalierError(
        "no-record",
        `${directory} says neither in espalier.json nor in the id2label of config.json how its labels are called. Train it first.`,
      );
    refuseUnknown(labels, heldOut);
    return { task: "token-classification", labels, maxLength, tokensColumn };
  },
  load: (directory, { labels }) => loadText(directory, (path) => loadTokenClassifier(path, labels)),
  task: ({ model, tokenizer }, data, record, device) =>
    recording(tokenClassificationTask(model, tokenizer, device, { ...data, ...record }), { tokensColumn: record.tokensColumn }),
  saved: ({ labels }) => ({ labels }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
  sample: ({ tokens, target }) => ({ input: tokens, shown: tokens.join(" "), expected: target.map((label) => label ?? "–").join(" ") }),
  predictor({ model, tokenizer }, record, device) {
    const tagger = new Tagger(model, tokenizer, device, record);
    return {
      read: (file) => readWords(file, record.tokensColumn ?? "tokens"),
      async predict(sentences: readonly (readonly string[])[]) {
        const { examples, truncation } = tagger.encode(
          sentences.map((tokens, i) => ({ tokens, target: tokens.map(() => null), text: "", file: `text ${i + 1}`, line: 1 })),
        );
        const { labels } = await tagger.labels(examples, Math.min(16, examples.length));
        return {
          results: labels.map((row, i) => {
            const words = sentences[i]!;
            const spans = marksSpans(record.labels)
              ? { spans: spansOf(row).map(({ type, start, end }) => ({ type, start, end, text: words.slice(start, end + 1).join(" ") })) }
              : {};
            return {
              shown: row.map((label, t) => (label === "O" ? words[t]! : `${words[t]}/${label}`)).join(" "),
              fields: { tokens: words, labels: row, ...spans },
            };
          }),
          notes: cutNote("given", truncation),
        };
      },
      dispose: () => tagger.dispose(),
    };
  },
};

/** A line of a text file is a sentence whose words stand between blanks; data files hold lists of words. */
async function readWords(file: string, column: string): Promise<PredictionInput<readonly string[]>[]> {
  if (holdsRecords(file))
    return exampleRows(file, JSON.stringify({ [column]: ["…"] }), (value, place) => {
      const tokens = listOf(value, column);
      return tokens?.every((token) => typeof token === "string") && tokens.length > 0
        ? { input: tokens as string[], ...place }
        : `has no list of words "${column}"`;
    });
  const lines = readInput(file).toString("utf8").split("\n");
  const sentences = lines.flatMap((text, i) => (text.trim() === "" ? [] : [{ input: text.trim().split(/\s+/u), file, line: i + 1 }]));
  if (sentences.length === 0) throw new EspalierError("empty-text", `${file} holds no text.`);
  return sentences;
}

function labelsOf(examples: readonly TokensExample[]): string[] {
  const labels = [...new Set(examples.flatMap(({ target }) => target))].filter((label): label is string => label !== null).sort();
  if (labels.length === 0)
    throw new EspalierError("no-targets", "No word of the training data has a label (all are null), so there is nothing to learn.");
  if (labels.length > 1) return labels;
  throw new EspalierError("one-label", `Labels of words need at least two kinds in the training data; all are "${labels[0]}".`);
}

function refuseUnknown(labels: readonly string[], examples: readonly TokensExample[]): void {
  for (const { target, file, line } of examples) {
    const unknown = target.find((label) => label !== null && !labels.includes(label));
    if (unknown === undefined) continue;
    throw new EspalierError(
      "unseen-label",
      `${file} line ${line}: the model does not know the label "${unknown}"; it tells ${labels.join(", ")} apart.`,
    );
  }
}

interface EncodedWords {
  ids: readonly number[];
  length: number;
  /** For each id the index of a label, −100 where there is none. */
  targets: readonly number[];
  /** The place in `ids` of the first part of each word that was not cut off. */
  starts: readonly number[];
  description: string;
}

export interface TokenClassificationOptions {
  labels: readonly string[];
  /** Tokens per text. */
  maxLength: number;
}

/** Words → labels. The first part of a word that the tokenizer cuts up carries its label. */
class Tagger {
  readonly #tokenizer: Tokenizer;
  readonly #evaluator: Evaluator;
  readonly #options: TokenClassificationOptions;
  /** Before a word: a blank where the tokenizer writes it into the token, as byte-level ones do. */
  readonly #lead: string;

  constructor(model: TokenClassifier, tokenizer: Tokenizer, device: Device, options: TokenClassificationOptions) {
    this.#tokenizer = tokenizer;
    this.#evaluator = new Evaluator(device, objectiveOf(model));
    this.#options = options;
    const [first] = tokenizer.encode(" a", { addSpecialTokens: false });
    this.#lead = first !== undefined && tokenizer.token(first)?.startsWith("Ġ") ? " " : "";
  }

  encode(examples: readonly TokensExample[]): { examples: EncodedWords[]; truncation: Truncation } {
    const { labels, maxLength } = this.#options;
    const { prefix, suffix } = this.#tokenizer.surroundings;
    const limit = maxLength - prefix.length - suffix.length;
    if (limit < 1) throw new EspalierError("bad-option", `A length of ${maxLength} tokens leaves no room for words.`);
    const truncation: Truncation = { count: 0, of: examples.length, longest: 0, limit };
    const encoded = examples.map(({ tokens, target, file, line }): EncodedWords => {
      const parts: number[] = [];
      const [targets, starts]: [number[], number[]] = [[], []];
      for (const [word, token] of tokens.entries()) {
        const ids = this.#tokenizer.encode(this.#lead + token, { addSpecialTokens: false });
        // A word of nothing that the tokenizer knows still has a label.
        const known = ids.length > 0 ? ids : [this.#tokenizer.unkId ?? padIdOf(this.#tokenizer)];
        if (parts.length < limit) starts.push(prefix.length + parts.length);
        const label = target[word];
        targets.push(label === null || label === undefined ? -100 : labels.indexOf(label), ...known.slice(1).map(() => -100));
        parts.push(...known);
      }
      truncation.longest = Math.max(truncation.longest, parts.length);
      if (parts.length > limit) truncation.count++;
      const around = (n: number) => new Array<number>(n).fill(-100);
      const ids = [...prefix, ...parts.slice(0, limit), ...suffix];
      return {
        ids,
        length: ids.length,
        targets: [...around(prefix.length), ...targets.slice(0, limit), ...around(suffix.length)],
        starts,
        description: `${file}:${line}`,
      };
    });
    return { examples: encoded, truncation };
  }

  batches(examples: readonly EncodedWords[], options: { batchSize: number; seed?: number; shuffle?: boolean }) {
    const padId = padIdOf(this.#tokenizer);
    const feeds = ({ examples, batchSize, length }: BatchRows<EncodedWords>) => {
      const rows = (of: (example: EncodedWords) => readonly number[], fill: number) =>
        paddedRows(examples.map(of), batchSize, length, fill);
      return {
        ids: rows((e) => e.ids, padId),
        attentionMask: paddingMaskRows(
          examples.map((e) => e.length),
          batchSize,
          length,
        ),
        targets: rows((e) => e.targets, -100),
      };
    };
    return paddedBatches(examples, { ...options, buckets: lengthBuckets(this.#options.maxLength) }, feeds);
  }

  /** The label of each word that was not cut off. */
  async labels(examples: readonly EncodedWords[], batchSize: number, onProgress?: (done: number, of: number) => void) {
    const names = this.#options.labels;
    const source = this.batches(examples, { batchSize, shuffle: false });
    const { logits, loss } = await rowsOfLogits(this.#evaluator, source, examples.length, onProgress);
    const labels = examples.map(({ starts }, i) =>
      starts.map((t) => names[largestOf(logits[i]!.subarray(t * names.length, (t + 1) * names.length))]!),
    );
    return { labels, loss };
  }

  dispose(): Promise<void> {
    return this.#evaluator.dispose();
  }
}

/** One label for each word. Where labels mark spans (B-PER, I-PER, O), quality is stated as the F1 of whole spans, otherwise as accuracy. */
export function tokenClassificationTask(
  model: TokenClassifier,
  tokenizer: Tokenizer,
  device: Device,
  options: TokenClassificationOptions & TaskData<TokensExample>,
): Task {
  const { labels, maxLength, train, heldOut, batchSize, seed } = options;
  refuseUnknown(labels, heldOut);
  const tagger = new Tagger(model, tokenizer, device, options);
  const [trainSet, heldSet] = [tagger.encode(train), tagger.encode(heldOut)];
  for (const [name, { examples, truncation }] of Object.entries({ training: trainSet, "held-out": heldSet }))
    if (truncation.of > 0 && examples.every(({ targets }) => targets.every((target) => target === -100))) {
      const labelled = (name === "training" ? train : heldOut).some(({ target }) => target.some((label) => label !== null));
      throw new EspalierError(
        "no-targets",
        `No word of the ${name} data has a label${labelled ? ` within ${maxLength} tokens` : " (all are null)"}, so there is nothing to ${name === "training" ? "learn" : "measure"}.`,
      );
    }
  const spans = marksSpans(labels);
  const heldOutNotes = cutNote("held-out", heldSet.truncation);
  return {
    name: "token-classification",
    model,
    objective: objectiveOf(model),
    train: batchesOf(trainSet.examples, (examples) => tagger.batches(examples, { batchSize, seed })),
    notes: [
      `${train.length} training and ${heldOut.length} held-out texts of ${count(train)} and ${count(heldOut)} words; labels ${labels.join(", ")}`,
      ...cutNote("training", trainSet.truncation),
      ...heldOutNotes,
    ],
    heldOutNotes,
    metric: spans ? "f1" : "accuracy",
    higherIsBetter: true,
    length: maxLength,
    record: { task: "token-classification", labels, maxLength } satisfies TokenClassificationRecord,
    async evaluate(onProgress) {
      const { labels: predicted, loss } = await tagger.labels(heldSet.examples, batchSize, onProgress);
      // Words without a label are neither right nor wrong.
      const pairs = predicted.map((row, i) => {
        const counted = row.map((label, t) => [label, heldOut[i]!.target[t]] as const).filter(([, own]) => own !== null);
        return { called: counted.map(([label]) => label), actual: counted.map(([, own]) => own as string) };
      });
      const index = (row: readonly string[]) => row.map((label) => labels.indexOf(label));
      const [called, actual] = [pairs.flatMap((p) => index(p.called)), pairs.flatMap((p) => index(p.actual))];
      const plain = { loss, accuracy: accuracy(called, actual) };
      if (!spans) return { ...plain, macroF1: macroF1(called, actual) };
      const measured = pairs.filter((p) => p.actual.length > 0);
      const { precision, recall, f1 } = spanF1(
        measured.map((p) => p.called),
        measured.map((p) => p.actual),
      );
      return { ...plain, f1, precision, recall };
    },
    dispose: () => tagger.dispose(),
  };
}

const count = (examples: readonly TokensExample[]): number => examples.reduce((n, { tokens }) => n + tokens.length, 0);

function cutNote(name: string, { count, of, longest, limit }: Truncation): string[] {
  const note = `${count} of ${of} ${name} texts are longer than ${limit} tokens (the longest has ${longest}): their last words were cut off and are not measured; --max-length changes that`;
  return count > 0 ? [note] : [];
}
