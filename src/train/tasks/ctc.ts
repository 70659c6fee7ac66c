import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { readJsonObject } from "../../checkpoints/index.ts";
import { type Example, paddedBatches, paddedRows } from "../../data/index.ts";
import { printable } from "../../data/json-lines.ts";
import type { BatchRows } from "../../data/padded-batches.ts";
import { ctcBestPath } from "../../generate/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { type AudioProcessor, audioProcessorFromDirectory, readWav, readWavFile } from "../../inputs/audio/index.ts";
import { Letters } from "../../inputs/text/letters.ts";
import type { CtcModel } from "../../models/ctc-model.ts";
import { loadCtcModel } from "../../models/load-speech.ts";
import { type Device, hostTensor } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { characterErrorRate, wordErrorRate } from "../metrics/index.ts";
import { ctcRecognition } from "../objectives/index.ts";
import { exampleRows, textOf } from "./example-rows.ts";
import type { Loaded, TaskKind } from "./kind.ts";
import { readInput } from "./prediction-files.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({ task: z.literal("ctc"), letters: z.array(z.string()).min(2).readonly(), gap: z.string().min(1) });
export type CtcRecord = z.output<typeof record>;

export interface SoundExample extends Example {
  /** A WAV file. */
  path: string;
  /** What is said. */
  target: string;
}

interface LoadedSounds extends Loaded {
  readonly model: CtcModel;
  readonly processor: AudioProcessor;
}

const like = '{"audio": "hello.wav", "text": "hello"}';

/** What is said in recordings. */
export const ctc: TaskKind<SoundExample, CtcRecord, LoadedSounds> = {
  name: "ctc",
  summary: "what is said in recordings",
  data: like,
  needs: "ctcModel",
  options: ["audioColumn", "textColumn"],
  record,
  recognises: ({ record, options: { audioColumn = "audio" } }) => typeof record?.[audioColumn] === "string",
  read: (path, { audioColumn = "audio", textColumn = "text" }) =>
    exampleRows(path, like, (value, place) => {
      const [named, said] = [textOf(value, audioColumn), textOf(value, textColumn)];
      if ("wrong" in named) return named.wrong;
      if ("wrong" in said) return said.wrong;
      const file = resolve(dirname(place.file), named.text);
      if (!isFile(file)) return `names ${printable(file)}, which does not exist`;
      // Recordings of one sentence are not the same example.
      const hash = createHash("sha256").update(readInput(file)).digest("hex");
      return { path: file, target: said.text, text: `${said.text} ${hash}`, ...place };
    }),
  plan({ directory, train }) {
    const letters = lettersOf(directory);
    if (letters) return { task: "ctc", ...letters };
    const model = loadCtcModel(directory);
    if (train.length > 0 && model.headIsFresh) {
      const texts = train.map(({ target }) => target);
      return { task: "ctc", letters: Letters.ofTexts(texts, model.blank).letters, gap: "|" };
    }
    throw new EspalierError(
      "no-letters",
      `${directory}: has a head that spells, but no vocab.json that says which letters its ${model.config.vocab_size} outputs are. Copy it from the checkpoint.`,
    );
  },
  async load(directory, { letters }) {
    return { model: loadCtcModel(directory, { vocabulary: letters.length }), processor: audioProcessorFromDirectory(directory) };
  },
  task: ({ model, processor }, data, record, device) => ctcTask(model, processor, device, { ...data, ...record }),
  sample: ({ path, target }) => ({ input: path, shown: path, expected: target }),
  predictor({ model, processor }, record, device) {
    const recogniser = new Recogniser(model, processor, device, record);
    return {
      read: async (file) => [{ input: file, file }],
      async predict(files: readonly string[]) {
        const sounds = recogniser.measure(files.map((path) => ({ path, target: "", text: "", file: path, line: 1 })));
        const { texts } = await recogniser.transcribe(sounds, 1);
        return { results: texts.map((text) => ({ shown: text, fields: { text } })), notes: [] };
      },
      dispose: () => recogniser.dispose(),
    };
  },
};

/** A name may be none: too long, or with a zero byte. */
function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** The letters that a checkpoint names. */
function lettersOf(directory: string): { letters: readonly string[]; gap: string } | undefined {
  const file = join(directory, "vocab.json");
  if (!existsSync(file)) return undefined;
  const settings = join(directory, "tokenizer_config.json");
  const { word_delimiter_token: named } = existsSync(settings) ? readJsonObject(settings) : {};
  const gap = typeof named === "string" && named !== "" ? named : "|";
  return { letters: Letters.fromVocabulary(readJsonObject(file), gap, file).letters, gap };
}

interface Recording {
  path: string;
  target: string;
  ids: readonly number[];
  /** Samples, as the model reads them. */
  length: number;
  description: string;
}

/** A model that spells what it hears. */
class Recogniser {
  readonly #model: CtcModel;
  readonly #processor: AudioProcessor;
  readonly #letters: Letters;
  readonly #evaluator: Evaluator;

  constructor(model: CtcModel, processor: AudioProcessor, device: Device, { letters, gap }: { letters: readonly string[]; gap: string }) {
    this.#model = model;
    this.#processor = processor;
    this.#letters = new Letters(letters, gap);
    this.#evaluator = new Evaluator(device, ctcRecognition(model));
  }

  encode(text: string) {
    return this.#letters.encode(text);
  }

  /** Looks into every file for its length; the samples are read again with their batch. */
  measure(examples: readonly SoundExample[]): Recording[] {
    return examples.map(({ path, target, file, line }) => {
      const { samples, sampleRate } = readWav(readInput(path), path);
      const length = Math.ceil((samples.length * this.#processor.sampleRate) / sampleRate);
      if (length === 0) throw new EspalierError("audio-short", `${path}: has no samples.`);
      return { path, target, ids: this.#letters.encode(target).ids, length, description: `${file}:${line}` };
    });
  }

  /** All rows of a batch are sounds: a row that fills up would count as one in which nothing is said. */
  batches(recordings: readonly Recording[], options: { batchSize: number; seed?: number; shuffle?: boolean }) {
    const longest = recordings.reduce((most, { length }) => Math.max(most, length), 1);
    const buckets = [...new Set([longest / 4, longest / 2, longest].map((n) => Math.max(1, Math.ceil(n))))];
    const feeds = async ({ examples, length }: BatchRows<Recording>) => {
      const values = new Float32Array(examples.length * length);
      const mask = new BigInt64Array(examples.length * length);
      let masked = false;
      for (const [row, { path }] of examples.entries()) {
        // Alone, so that what a sound becomes does not depend on its batch.
        const { input_values: own, attention_mask } = this.#processor.process([await readWavFile(path)]);
        const samples = (own!.data as Float32Array).subarray(0, length);
        values.set(samples, row * length);
        mask.fill(1n, row * length, row * length + samples.length);
        masked ||= attention_mask !== undefined;
      }
      const spelt = Math.max(1, ...examples.map(({ ids }) => ids.length));
      const labels = paddedRows(
        examples.map(({ ids }) => ids),
        examples.length,
        // Few lengths, so that few programs are compiled.
        2 ** Math.ceil(Math.log2(spelt)),
        -100,
      );
      const shape = [examples.length, length];
      return {
        values: hostTensor("float32", shape, values),
        ...(masked && { attentionMask: hostTensor("int64", shape, mask) }),
        labels,
      };
    };
    return paddedBatches(recordings, { ...options, buckets }, feeds);
  }

  async transcribe(recordings: readonly Recording[], batchSize: number, onProgress?: (done: number, of: number) => void) {
    const source = this.batches(recordings, { batchSize, shuffle: false });
    const texts: string[] = new Array(recordings.length);
    const { loss } = await this.#evaluator.run(
      source,
      (step, { logits, lengths }) => {
        const paths = ctcBestPath(logits!, this.#model.blank, lengths);
        for (const [row, index] of source.indices(step).entries()) if (index >= 0) texts[index] = this.#letters.decode(paths[row]!);
      },
      onProgress,
    );
    await this.#evaluator.dispose(); // see rowsOfLogits
    return { texts, loss };
  }

  dispose(): Promise<void> {
    return this.#evaluator.dispose();
  }
}

export interface CtcTaskOptions extends TaskData<SoundExample> {
  /** By their ids. */
  letters: readonly string[];
  /** The letter between words. */
  gap: string;
}

/** What is said, letter by letter. Quality is the share of words that are wrong. */
export function ctcTask(model: CtcModel, processor: AudioProcessor, device: Device, options: CtcTaskOptions): Task {
  const { train, heldOut, batchSize, seed, letters, gap } = options;
  const recogniser = new Recogniser(model, processor, device, options);
  const unknown = [...new Set([...train, ...heldOut].flatMap(({ target }) => recogniser.encode(target).unknown))];
  const spelt = [...train, ...heldOut].some(({ target }) => recogniser.encode(target).ids.length > 0);
  if (!spelt && train.length + heldOut.length > 0)
    throw new EspalierError(
      "no-targets",
      `None of the texts has a letter that the model spells with (${letters.filter(Boolean).join(" ")}).`,
    );
  const [trainSet, heldSet] = [recogniser.measure(train), recogniser.measure(heldOut)];
  return {
    name: "ctc",
    model,
    objective: ctcRecognition(model),
    train: batchesOf(trainSet, (recordings) => recogniser.batches(recordings, { batchSize, seed })),
    notes: [
      `${train.length} training and ${heldOut.length} held-out recordings, spelt with ${letters.filter(Boolean).length} letters`,
      ...(unknown.length > 0 ? [`Letters that the model does not have were left out: ${unknown.slice(0, 30).join(" ")}`] : []),
    ],
    metric: "wer",
    higherIsBetter: false,
    record: { task: "ctc", letters, gap } satisfies CtcRecord,
    async evaluate(onProgress) {
      const { texts, loss } = await recogniser.transcribe(heldSet, batchSize, onProgress);
      // Compared in the letters and the case that the model writes.
      const said = heldOut.map(({ target }) => new Letters(letters, gap).decode(recogniser.encode(target).ids));
      return { loss, wer: wordErrorRate(texts, said), cer: characterErrorRate(texts, said) };
    },
    dispose: () => recogniser.dispose(),
  };
}
