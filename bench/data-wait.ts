/**
 * How long a training step waits for its data, as a share of the time of training: LoRA on the embedded sapling (5.7 M parameters, so that a step is
 * short and data weigh much), 8 × 256 tokens. Token ids from the cache; a .jsonl file read in pieces and tokenised as its batches are due. And how long
 * data take to be prepared the first and the second time, what memory reading costs, and how fast images are decoded.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { type BatchSource, conversationBatch, languageBatches, shuffledRecords, streamedBatches } from "../src/data/index.ts";
import { type Example, encodedRecords, openExamples } from "../src/data/records.ts";
import { Random } from "../src/graph/index.ts";
import { decodeImage, ImageProcessor } from "../src/inputs/image/index.ts";
import type { Tokenizer } from "../src/inputs/index.ts";
import { tokenizerFromDirectory } from "../src/inputs/text/index.ts";
import { lora } from "../src/methods/index.ts";
import { loadCausalLM } from "../src/models/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { adamW, causalLanguageModel, train } from "../src/train/index.ts";
import { anonymousMemory, round } from "./machine.ts";

const model = "models/sapling";
const [batchSize, length] = [8, 256];

export async function benchDataWait({ smoke, megabytes }: { smoke: boolean; megabytes: number }): Promise<Record<string, unknown>> {
  const directory = mkdtempSync(join(tmpdir(), "espalier-data-wait-"));
  const cache = join(directory, "cache");
  try {
    const tokenizer = await tokenizerFromDirectory(model);
    const bytes = (smoke ? 1 : megabytes) * 2 ** 20;
    const file = writeTexts(join(directory, "texts.jsonl"), bytes);
    const steps = smoke ? 2 : 20;
    const before = anonymousMemory();
    const firstOpened = await timed(() => openExamples(file, { cache }));
    const again = await timed(() => openExamples(file, { cache }));
    const { train: records } = again.value;
    const firstTokens = await timed(() => encodedRecords(tokenizer, records, { cache }));
    firstTokens.value.close();
    const tokens = await timed(() => encodedRecords(tokenizer, records, { cache }));
    const cached = languageBatches(tokens.value, { batchSize, sequenceLength: length });
    const streamed = onTheFly(tokenizer, shuffledRecords(records));
    // A thousand batches from all over the file: what reading holds in memory.
    for (let step = 0; step < (smoke ? 20 : 1000); step++) cached.batch(step * 7);
    for (let step = 0; step < (smoke ? 20 : 300); step++) streamed.batch(step);
    const memory = anonymousMemory() - before;
    const figures = {
      fileMB: round(bytes / 2 ** 20, 0),
      records: records.length,
      indexSeconds: { first: round(firstOpened.seconds, 2), second: round(again.seconds, 3) },
      tokeniseSeconds: { first: round(firstTokens.seconds, 2), second: round(tokens.seconds, 3) },
      readingMemoryMB: round(memory / 2 ** 20, 0),
      waiting: { cachedTokens: await waiting(cached, steps), streamedAndTokenised: await waiting(streamed, steps) },
      images: await images(directory, smoke ? 8 : 64),
    };
    firstOpened.value.close();
    again.value.close();
    tokens.value.close();
    return figures;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Texts of about 1100 characters, of words that a tokenizer has to look at. */
function writeTexts(file: string, bytes: number): string {
  const random = new Random(7);
  const words = Array.from({ length: 20_000 }, () =>
    Array.from({ length: 2 + random.integer(8) }, () => "etaoinshrdlucm"[random.integer(14)]).join(""),
  );
  const part: string[] = [];
  let written = 0;
  while (written < Math.min(bytes, 2 ** 24)) {
    const text = Array.from({ length: 100 + random.integer(200) }, () => words[Math.floor(words.length * random.uniform() ** 3)]).join(" ");
    const line = `${JSON.stringify({ text })}\n`;
    written += line.length;
    part.push(line);
  }
  // Larger files repeat it: what is measured is reading.
  const block = Buffer.from(part.join(""));
  writeFileSync(file, block);
  for (let size = block.length; size < bytes; size += block.length) writeFileSync(file, block, { flag: "a" });
  return file;
}

function onTheFly(tokenizer: Tokenizer, stream: ReturnType<typeof shuffledRecords<Example>>): BatchSource {
  return streamedBatches(stream, {
    batchSize,
    buckets: [length],
    size: ({ text }) => text.length,
    encode({ text, file, line }) {
      const ids = tokenizer.encode(text, { addSpecialTokens: false }).slice(0, length + 1);
      return { ids: ids.slice(0, -1), targets: ids.slice(1), description: `${file}:${line}` };
    },
    assemble: (examples, rowLength) => conversationBatch(examples, { rows: batchSize, length: rowLength, padId: tokenizer.padId ?? 0 }),
  });
}

/** Batches are made on the spot, so that the time they take is time waited. */
async function waiting(source: BatchSource, steps: number): Promise<Record<string, number>> {
  const device = cpu();
  const base = loadCausalLM(model);
  let making = 0;
  const watched: BatchSource = {
    batchesPerEpoch: source.batchesPerEpoch,
    batch(step) {
      const started = performance.now();
      const batch = source.batch(step);
      making += performance.now() - started;
      return batch;
    },
  };
  let [started, madeBefore] = [0, 0];
  await train({
    model: base,
    objective: causalLanguageModel(base),
    data: watched,
    device,
    methods: [lora({ rank: 8, targets: "all-linear" })],
    optimizer: adamW({ learningRate: 1e-3 }),
    steps: steps + 2,
    onStep({ step }) {
      // The first steps compile.
      if (step === 2) [started, madeBefore] = [performance.now(), making];
    },
  });
  const milliseconds = performance.now() - started;
  await device.dispose();
  const waited = making - madeBefore;
  return {
    share: round(waited / milliseconds, 5),
    batchMilliseconds: round(waited / steps, 2),
    stepMilliseconds: round(milliseconds / steps, 1),
  };
}

/** Photographs of 500 × 375 to 224 × 224, eight at a time, as a batch asks for them. */
async function images(directory: string, count: number): Promise<Record<string, number>> {
  const random = new Random(8);
  const files: string[] = [];
  for (let i = 0; i < count; i++) {
    const pixels = Buffer.from(Array.from({ length: 20 * 15 * 3 }, () => random.integer(256)));
    const file = join(directory, `${i}.jpg`);
    await sharp(pixels, { raw: { width: 20, height: 15, channels: 3 } })
      .resize(500, 375)
      .jpeg()
      .toFile(file);
    files.push(file);
  }
  const processor = ImageProcessor.fromJson({ image_processor_type: "ViTImageProcessor" });
  const { seconds } = await timed(async () => {
    for (let at = 0; at < count; at += 8) processor.process(await Promise.all(files.slice(at, at + 8).map((file) => decodeImage(file))));
  });
  return { perSecond: round(count / seconds, 0), millisecondsPerBatchOf8: round((8000 * seconds) / count, 1) };
}

async function timed<T>(work: () => Promise<T>): Promise<{ value: T; seconds: number }> {
  const started = performance.now();
  const value = await work();
  return { value, seconds: (performance.now() - started) / 1000 };
}
