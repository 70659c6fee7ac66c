import { z } from "zod";
import { type Example, paddedBatches, paddedRows, paddingMaskRows, type Truncation } from "../../data/index.ts";
import type { BatchRows } from "../../data/padded-batches.ts";
import { beamSearch, endIdsOf, Seq2SeqDecoder } from "../../generate/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import { loadSeq2SeqLM } from "../../models/load-seq2seq.ts";
import type { Seq2SeqLM, TextSource } from "../../models/seq2seq.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { bleu, chrf, rouge } from "../metrics/index.ts";
import { sequenceToSequence } from "../objectives/index.ts";
import { exampleRows, textOf } from "./example-rows.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, lengthBuckets, loadText, padIdOf } from "./loaded-text.ts";
import { readTexts } from "./prediction-files.ts";
import { SequenceEncoder, truncationNote } from "./sequence-encoder.ts";
import { batchesOf, recording, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("seq2seq"),
  template: z.string(),
  maxLength: z.int().positive(),
  /** Where training was told one. */
  sourceColumn: z.string().optional(),
});
export type Seq2SeqRecord = z.output<typeof record>;

export interface TextPair extends Example {
  /** What the text is to become. */
  target: string;
}

/** The names that columns have where nobody names them. */
const usual = [
  ["source", "target"],
  ["text", "summary"],
  ["document", "summary"],
  ["prompt", "completion"],
] as const;
const like = '{"source": "…", "target": "…"}';

const columnsOf = (value: Readonly<Record<string, unknown>>) =>
  usual.find((names) => names.every((name) => typeof value[name] === "string")) ?? usual[0];

/** The column of the source, in rows that may have no answer. */
const sourceOf = (row: Readonly<Record<string, unknown>>) => usual.find(([source]) => typeof row[source] === "string")?.[0] ?? usual[0][0];

/** One text from another. */
export const seq2seq: TaskKind<TextPair, Seq2SeqRecord, LoadedText<Seq2SeqLM<TextSource>>> = {
  name: "seq2seq",
  summary: "one text from another",
  data: `${like}, or text and summary`,
  needs: "seq2seq",
  options: ["sourceColumn", "targetColumn", "template"],
  record,
  recognises: () => true,
  read: (path, { sourceColumn, targetColumn }) =>
    exampleRows(path, like, (value, place) => {
      const [source, target] = columnsOf(value);
      const [read, answer] = [textOf(value, sourceColumn ?? source), textOf(value, targetColumn ?? target)];
      if ("wrong" in read) return read.wrong;
      return "wrong" in answer ? answer.wrong : { ...read, target: answer.text, ...place };
    }),
  plan: ({ options: { template = "{text}", maxLength = defaultLength, sourceColumn } }) => ({
    task: "seq2seq",
    template,
    maxLength,
    sourceColumn,
  }),
  load: (directory) => loadText(directory, loadSeq2SeqLM),
  task: ({ model, tokenizer }, data, record, device) =>
    recording(seq2seqTask(model, tokenizer, device, { ...data, ...record }), { sourceColumn: record.sourceColumn }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
  sample: ({ text, target }) => ({ input: text, shown: text, expected: target }),
  predictor({ model, tokenizer }, record, device) {
    const encoder = new SequenceEncoder(tokenizer, record);
    return {
      read: (file) => readTexts(file, (row) => record.sourceColumn ?? sourceOf(row)),
      async predict(texts: readonly string[]) {
        const { examples, truncation } = encoder.encode(texts.map((text, i) => ({ text, description: `text ${i + 1}` })));
        const answers = await write(device, model, tokenizer, examples, record.maxLength, 8);
        return { results: answers.map((text) => ({ shown: text, fields: { text } })), notes: truncationNote("given", truncation) };
      },
      dispose: async () => {},
    };
  },
};

/** So many held-out texts are written at each evaluation: writing takes many times as long as reading. */
const writtenAtMost = 200;

export interface Seq2SeqTaskOptions extends TaskData<TextPair> {
  /** How a text is put to the model; its place is marked by `{text}`, as in "summarize: {text}". */
  template: string;
  /** Tokens of a source, and of an answer. */
  maxLength: number;
}

interface EncodedPair {
  ids: readonly number[];
  length: number;
  /** The answer with the tokens that end it. */
  targets: readonly number[];
  description: string;
}

/** Text to text. Quality is the loss of held-out answers, and BLEU, chrF and ROUGE of what the model itself writes, greedily. */
export function seq2seqTask(model: Seq2SeqLM<TextSource>, tokenizer: Tokenizer, device: Device, options: Seq2SeqTaskOptions): Task {
  const { train, heldOut, batchSize, seed, template, maxLength } = options;
  const answerLimit = Math.min(maxLength, model.contextLength);
  const encoder = new SequenceEncoder(tokenizer, { template, maxLength: Math.min(maxLength, model.sourceLength) });
  const prepare = (pairs: readonly TextPair[]) => {
    const texts = pairs.map(({ text, file, line }) => ({ text, description: `${file}:${line}` }));
    const sources = encoder.encode(texts, options.cache);
    const answers = answersOf(
      pairs.map(({ target }) => target),
      tokenizer,
      answerLimit,
    );
    const examples = sources.examples.map(
      ({ ids, description }, i): EncodedPair => ({
        ids,
        // Either side decides on the bucket, so that a batch has one length.
        length: Math.max(ids.length, answers.ids[i]!.length),
        targets: answers.ids[i]!,
        description,
      }),
    );
    return { examples, source: sources.truncation, answer: answers.truncation };
  };
  const [trainSet, heldSet] = [prepare(train), prepare(heldOut)];
  const feeds = ({ examples, batchSize, length }: BatchRows<EncodedPair>) => {
    const rows = (of: (pair: EncodedPair) => readonly number[], fill: number) => paddedRows(examples.map(of), batchSize, length, fill);
    return {
      ids: rows((e) => e.ids, padIdOf(tokenizer)),
      attentionMask: paddingMaskRows(
        examples.map((e) => e.ids.length),
        batchSize,
        length,
      ),
      answer: rows((e) => [model.startId, ...e.targets.slice(0, -1)], padIdOf(tokenizer)),
      targets: rows((e) => e.targets, -100),
    };
  };
  const buckets = lengthBuckets(maxLength);
  const heldSource =
    heldSet.examples.length > 0 ? paddedBatches(heldSet.examples, { batchSize, buckets, shuffle: false }, feeds) : undefined;
  const objective = sequenceToSequence(model);
  const evaluator = new Evaluator(device, objective);
  const written = heldSet.examples.slice(0, writtenAtMost);
  const limited = `Of ${heldOut.length} held-out texts, the first ${written.length} are written at each evaluation for BLEU, chrF and ROUGE; the loss is of all`;
  const heldOutNotes = [
    ...truncationNote("held-out", heldSet.source),
    ...answerNote("held-out", heldSet.answer),
    ...(written.length < heldOut.length ? [limited] : []),
  ];
  return {
    name: "seq2seq",
    model,
    objective,
    train: batchesOf(trainSet.examples, (examples) => paddedBatches(examples, { batchSize, buckets, seed }, feeds)),
    notes: [
      `${train.length} training and ${heldOut.length} held-out pairs of texts`,
      ...truncationNote("training", trainSet.source),
      ...answerNote("training", trainSet.answer),
      ...heldOutNotes,
    ],
    heldOutNotes,
    metric: "rougeL",
    higherIsBetter: true,
    length: answerLimit,
    record: { task: "seq2seq", template, maxLength } satisfies Seq2SeqRecord,
    async evaluate(onProgress) {
      const { loss } = await evaluator.run(heldSource!, undefined, onProgress);
      await evaluator.dispose(); // see rowsOfLogits
      const answers = await write(device, model, tokenizer, written, answerLimit, batchSize, onProgress);
      const references = heldOut.slice(0, written.length).map(({ target }) => target);
      return { loss, ...rouge(answers, references), bleu: bleu(answers, references), chrf: chrf(answers, references) };
    },
    dispose: () => evaluator.dispose(),
  };
}

/** The ids of answers with what ends them; long ones lose their end but not that. */
function answersOf(texts: readonly string[], tokenizer: Tokenizer, limit: number): { ids: number[][]; truncation: Truncation } {
  const { suffix } = tokenizer.surroundings;
  const end = suffix.length > 0 || tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
  const truncation: Truncation = { count: 0, of: texts.length, longest: 0, limit };
  const ids = texts.map((text) => {
    const whole = [...tokenizer.encode(text), ...end];
    truncation.longest = Math.max(truncation.longest, whole.length);
    if (whole.length <= limit) return whole;
    truncation.count++;
    const last = suffix.length > 0 ? suffix : end;
    return [...whole.slice(0, limit - last.length), ...last];
  });
  return { ids, truncation };
}

/** What the model answers to each source, greedily. */
async function write(
  device: Device,
  model: Seq2SeqLM<TextSource>,
  tokenizer: Tokenizer,
  sources: readonly { ids: readonly number[] }[],
  maxNewTokens: number,
  batchSize: number,
  onProgress?: (done: number, of: number) => void,
): Promise<string[]> {
  const decoder = await Seq2SeqDecoder.create(device, model);
  const endIds = endIdsOf(decoder, tokenizer);
  const texts: string[] = [];
  try {
    for (let at = 0; at < sources.length; at += batchSize) {
      const decoding = await decoder.start(sources.slice(at, at + batchSize).map(({ ids }) => ids));
      const limit = Math.min(maxNewTokens, decoder.room());
      for (const [best] of await beamSearch(decoding, { beams: 1, maxNewTokens: limit, endIds }))
        texts.push(tokenizer.decode(best?.ids ?? [], { skipSpecialTokens: true }).trim());
      onProgress?.(Math.min(sources.length, at + batchSize), sources.length);
    }
  } finally {
    await decoder.dispose();
  }
  return texts;
}

function answerNote(name: string, { count, of, longest, limit }: Truncation): string[] {
  const note = `${count} of ${of} ${name} answers are longer than ${limit} tokens (the longest has ${longest}): their ends were cut off; --max-length changes that`;
  return count > 0 ? [note] : [];
}
