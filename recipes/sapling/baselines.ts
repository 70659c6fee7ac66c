/**
 * What sapling must beat on its held-out text: `npx tsx recipes/sapling/baselines.ts`, after `corpus.ts`. Writes `baselines.json`.
 *
 * `gzip -9` sees only the held-out text itself; the same with a training prefix of 32 kB (its whole window) before every document is given too.
 * The 5-gram byte model is trained on the whole training split: interpolated modified Kneser-Ney (Chen and Goodman 1998), orders 1 to 5.
 */
import { createReadStream, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { deflateRawSync, gzipSync } from "node:zlib";
import { ByteKneserNey } from "./byte-ngram.ts";

const separator = "\n\n";
const train: string[] = [];
const heldOut: { source: string; text: string }[] = [];
for await (const line of createInterface({
  input: createReadStream(join(".cache", "sapling", "corpus.jsonl")),
  crlfDelay: Number.POSITIVE_INFINITY,
})) {
  if (line === "") continue;
  const document = JSON.parse(line) as { source: string; split: string; text: string };
  if (document.split === "train") train.push(document.text);
  else heldOut.push(document);
}
const trainBytes = Buffer.from(train.join(separator));
const heldOutBytes = Buffer.from(heldOut.map((document) => document.text).join(separator));
const bits = (compressed: Uint8Array, text: Uint8Array) => (compressed.length * 8) / text.length;

// Deflate looks back 32 kB: text before that cannot help, so the last 32 kB of training text are all that gzip can be "trained" on.
const dictionary = trainBytes.subarray(trainBytes.length - 32_768);
let primed = 0;
let documentBytes = 0;
for (const { text } of heldOut) {
  const bytes = Buffer.from(text);
  primed += deflateRawSync(bytes, { level: 9, dictionary }).length;
  documentBytes += bytes.length;
}

const result: Record<string, unknown> = {
  heldOutDocuments: heldOut.length,
  heldOutBytes: documentBytes,
  trainBytes: trainBytes.length,
  gzip9: bits(gzipSync(heldOutBytes, { level: 9 }), heldOutBytes),
  gzip9PrimedWithTraining: (primed * 8) / documentBytes,
};
for (const order of [5, 4]) {
  const started = performance.now();
  const model = new ByteKneserNey(trainBytes, order);
  const perSource = new Map<string, { bits: number; bytes: number }>();
  let total = 0;
  for (const { source, text } of heldOut) {
    const bytes = Buffer.from(text);
    const cost = model.bits(bytes);
    const entry = perSource.get(source) ?? { bits: 0, bytes: 0 };
    entry.bits += cost;
    entry.bytes += bytes.length;
    perSource.set(source, entry);
    total += cost;
  }
  result[`kneserNey${order}Gram`] = total / documentBytes;
  result[`kneserNey${order}GramSeconds`] = Math.round((performance.now() - started) / 100) / 10;
  if (order === 5)
    result.kneserNey5GramPerSource = Object.fromEntries([...perSource].map(([source, { bits, bytes }]) => [source, bits / bytes]));
}
writeFileSync(join("recipes", "sapling", "baselines.json"), `${JSON.stringify(result, null, 2)}\n`);
console.log(JSON.stringify(result));
