import { z } from "zod";
import {
  type BatchSource,
  documentExamples,
  type EncodedExample,
  type Example,
  languageBatches,
  mixBatches,
  packedBatches,
} from "../../data/index.ts";
import { encodedRecords, encodedTexts, openExamples, readExamples, type TokenCacheOptions, type TokenTable } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { CausalLM } from "../../models/causal-lm.ts";
import { loadCausalLM } from "../../models/load.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { causalLanguageModel, distilledLanguageModel } from "../objectives/index.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, loadText } from "./loaded-text.ts";
import { packingNote } from "./packing-note.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({ task: z.literal("language-modeling"), sequenceLength: z.int().positive() });
export type LanguageRecord = z.output<typeof record>;

/** How texts go on. */
export const languageModeling: TaskKind<Example, LanguageRecord, LoadedText<CausalLM>> = {
  name: "language-modeling",
  summary: "how texts go on",
  data: '{"text": "…"}, or a .txt file',
  needs: "causalLM",
  options: ["textColumn", "packing", "teacher", "teacherShare", "temperature"],
  record,
  recognises: () => true,
  read: readExamples,
  cutsTexts: true,
  interchangeable: true,
  plan: ({ options: { maxLength = defaultLength } }) => ({ task: "language-modeling", sequenceLength: maxLength }),
  load: (directory) => loadText(directory, loadCausalLM),
  task: ({ model, tokenizer }, data, record, device) => languageModelingTask(model, tokenizer, device, { ...data, ...record }),
  streaming: {
    open: openExamples,
    async train({ tokenizer }, { sources, batchSize, seed, cache, heldOut }, { sequenceLength }) {
      const tables: TokenTable[] = [];
      const mixed: Record<string, { source: BatchSource; weight: number }> = {};
      let texts = 0;
      for (const [name, { records, weight }] of Object.entries(sources)) {
        const table = await encodedRecords(tokenizer, records, cache);
        tables.push(table);
        texts += records.length;
        const source = languageBatches(table, { batchSize, sequenceLength, seed });
        mixed[name] = { source, weight: weight ?? source.batchesPerEpoch };
      }
      const tokens = tables.reduce((n, { length }) => n + length, 0);
      const [only, ...more] = Object.values(mixed);
      return {
        train: more.length === 0 ? only!.source : mixBatches(mixed, { seed }),
        notes: [
          `${tokens} training tokens of ${texts} records, read from their file as they are due, in windows of ${sequenceLength} tokens; ${heldOut.length} held-out records`,
        ],
        close() {
          for (const table of tables) table.close();
        },
      };
    },
  },
  distilled: (student, teacher, options) => distilledLanguageModel(student.model, teacher.model, options),
  withLength: (record, sequenceLength) => ({ ...record, sequenceLength }),
};

export interface LanguageTaskOptions extends TaskData {
  /** Tokens per window. */
  sequenceLength: number;
  /** Whether each text is read from its own beginning, several to a row, for training. Default: windows of all texts one after the other. */
  packing?: boolean;
}

/** Token ids of each text and an end-of-text token. */
function encoded(examples: readonly Example[], tokenizer: Tokenizer, cache: TokenCacheOptions = { cache: false }): EncodedExample[] {
  const end = tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
  const table = encodedTexts(
    tokenizer,
    examples.map(({ text }) => text),
    cache,
  );
  const texts = examples.map(({ file, line }, row) => ({ ids: [...table.ids(row), ...end], description: `${file}:${line}` }));
  table.close();
  return texts;
}

const joined = (texts: readonly EncodedExample[]): Int32Array => Int32Array.from(texts.flatMap(({ ids }) => ids));

function packed(
  texts: readonly EncodedExample[],
  { batchSize, sequenceLength, seed }: LanguageTaskOptions,
): { train: BatchSource; notes: string[] } {
  const { examples, truncation, tooShort } = documentExamples(texts, sequenceLength);
  const train = packedBatches(examples, { batchSize, sequenceLength, seed });
  const split = `${truncation.count} of ${texts.length} training texts are longer than ${sequenceLength} tokens (the longest has ${truncation.longest}): each of their parts is read on its own`;
  const left = `${tooShort} of ${texts.length} training texts were left out: they have fewer than two tokens`;
  const notes = [
    packingNote(examples.length, train, sequenceLength),
    ...(truncation.count > 0 ? [split] : []),
    ...(tooShort > 0 ? [left] : []),
  ];
  return { train, notes };
}

/** With no more held-out tokens than this, one of them decides on the figure. */
const telling = 16;

/** Next-token prediction on texts; quality is stated in bits per byte of held-out text, which does not depend on the tokenizer. */
export function languageModelingTask(model: CausalLM, tokenizer: Tokenizer, device: Device, options: LanguageTaskOptions): Task {
  const { batchSize, sequenceLength, seed } = options;
  const [trainTexts, heldTexts] = [options.train, options.heldOut].map((part) => encoded(part, tokenizer, options.cache)) as [
    EncodedExample[],
    EncodedExample[],
  ];
  const [trainTokens, heldTokens] = [joined(trainTexts), joined(heldTexts)];
  if (heldTokens.length < 2)
    throw new EspalierError(
      "no-held-out",
      "The held-out part of the data holds no text to evaluate on. Give more data, a larger --held-out, or --eval-data.",
    );
  const bytes = options.heldOut.reduce((n, { text }) => n + new TextEncoder().encode(text).length, 0);
  const few = `The held-out figures rest on ${heldTokens.length - 1} guessed ${heldTokens.length === 2 ? "token" : "tokens"} and say next to nothing: give more data, or --eval-data`;
  const heldOutNotes = heldTokens.length <= telling ? [few] : [];
  const objective = causalLanguageModel(model);
  const evaluator = new Evaluator(device, objective);
  const { train, notes } = options.packing
    ? packed(trainTexts, options)
    : { train: batchesOf(options.train, () => languageBatches(trainTokens, { batchSize, sequenceLength, seed })), notes: [] };
  const heldSource = languageBatches(heldTokens, { batchSize, sequenceLength, shuffle: false });
  return {
    name: "language-modeling",
    model,
    objective,
    train,
    notes: [
      `${trainTokens.length} training and ${heldTokens.length} held-out tokens (${bytes} bytes of held-out text), in windows of ${sequenceLength} tokens`,
      ...notes,
      ...heldOutNotes,
    ],
    heldOutNotes,
    metric: "bitsPerByte",
    higherIsBetter: false,
    length: sequenceLength,
    record: { task: "language-modeling", sequenceLength } satisfies LanguageRecord,
    async evaluate(onProgress) {
      const { loss, weight } = await evaluator.run(heldSource, undefined, onProgress);
      await evaluator.dispose(); // see rowsOfLogits
      return { loss, bitsPerByte: (loss * weight) / Math.LN2 / bytes };
    },
    dispose: () => evaluator.dispose(),
  };
}
