/**
 * Builds the pre-training corpus of `sapling`: `npx tsx recipes/sapling/corpus.ts [--update-manifest]`.
 *
 * Reads the packages of `sources.ts`, keeps their prose, drops repeated paragraphs, splits by document and writes
 * `.cache/sapling/corpus.jsonl`, one `{id, source, licence, split, text}` a line. The same packages give the same bytes.
 */
import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { openPackage } from "./archives.ts";
import { cleanDocument } from "./prose.ts";
import { readDocuments, trustedReaders } from "./readers.ts";
import { type Source, sources } from "./sources.ts";
import { type Document, hashFraction, heldOutSeed, splitDocuments } from "./split.ts";

const cache = join(".cache", "sapling");
const manifestPath = join("recipes", "sapling", "manifest.json");
const shortestDocument = 500;

interface Manifest {
  packages: { name: string; registry: string; version: string; sha256: string; licence: string; documents: number; bytes: number }[];
  corpus: {
    sha256: string;
    documents: number;
    bytes: number;
    heldOutDocuments: number;
    heldOutBytes: number;
    nearDuplicatesMovedToTraining: number;
    seed: string;
  };
}

const updating = process.argv.includes("--update-manifest") || !existsSync(manifestPath);
const manifest = existsSync(manifestPath) ? (JSON.parse(readFileSync(manifestPath, "utf8")) as Manifest) : undefined;

const seen = new Set<string>();
const documents: Document[] = [];
const packages: Manifest["packages"] = [];
for (const source of sources) {
  const expected = updating ? undefined : manifest?.packages.find((entry) => entry.name === source.name);
  const found = openPackage({ name: source.name, registry: source.registry, ...(expected && { expected }) }, cache);
  const own = capped(readSource(source, found.root, found.files), source.maxBytes ?? Number.POSITIVE_INFINITY);
  const bytes = own.reduce((sum, document) => sum + Buffer.byteLength(document.text), 0);
  documents.push(...own);
  packages.push({
    name: source.name,
    registry: source.registry,
    version: found.version,
    sha256: found.sha256,
    licence: source.licence,
    documents: own.length,
    bytes,
  });
  console.log(
    `${source.name.padEnd(28)} ${found.version.padEnd(24)} ${String(own.length).padStart(5)} documents ${(bytes / 1e6).toFixed(2).padStart(6)} MB`,
  );
}

const { train, heldOut, nearDuplicates } = splitDocuments(documents);
const isHeldOut = new Set(heldOut);
const hash = createHash("sha256");
mkdirSync(cache, { recursive: true });
const out = openSync(join(cache, "corpus.jsonl"), "w");
for (const document of documents) {
  const line = `${JSON.stringify({ ...document, split: isHeldOut.has(document) ? "heldout" : "train" })}\n`;
  hash.update(line);
  writeSync(out, line);
}
closeSync(out);

const sizeOf = (list: readonly Document[]) => list.reduce((sum, document) => sum + Buffer.byteLength(document.text), 0);
const corpus: Manifest["corpus"] = {
  sha256: hash.digest("hex"),
  documents: documents.length,
  bytes: sizeOf(documents),
  heldOutDocuments: heldOut.length,
  heldOutBytes: sizeOf(heldOut),
  nearDuplicatesMovedToTraining: nearDuplicates,
  seed: heldOutSeed,
};
if (updating) writeFileSync(manifestPath, `${JSON.stringify({ packages, corpus } satisfies Manifest, null, 2)}\n`);
else if (manifest && manifest.corpus.sha256 !== corpus.sha256) {
  console.error(
    "The packages are those of the manifest, yet the corpus differs: the recipe's own code has changed. Run with --update-manifest if that is meant.",
  );
  process.exitCode = 1;
}
console.log(JSON.stringify({ ...corpus, trainDocuments: train.length, trainBytes: sizeOf(train) }));

function readSource(source: Source, root: string, files: readonly string[]): Document[] {
  const result: Document[] = [];
  for (const file of files) {
    if (!source.include.test(file) || source.exclude?.test(file)) continue;
    const raw = readFileSync(join(root, file));
    const content = (/\.(gz|dz)$/.test(file) ? gunzipSync(raw) : raw).toString("utf8");
    for (const [index, paragraphs] of readDocuments(source.reader, content).entries()) {
      const text = cleanDocument(paragraphs, seen, trustedReaders.has(source.reader));
      if (text.length < shortestDocument) continue;
      result.push({ id: `${source.name}:${file}#${index}`, source: source.name, licence: source.licence, text });
    }
  }
  return result;
}

/** Drops documents in a hashed order until the rest fits, so that what remains is a sample of the whole source. */
function capped(own: Document[], maxBytes: number): Document[] {
  const order = [...own].sort((a, b) => hashFraction(a.id) - hashFraction(b.id));
  const kept = new Set<Document>();
  let bytes = 0;
  for (const document of order) {
    bytes += Buffer.byteLength(document.text);
    if (bytes > maxBytes) break;
    kept.add(document);
  }
  return own.filter((document) => kept.has(document));
}
