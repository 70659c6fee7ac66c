import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import { type FileHash, findGguf, GgufFile, hashFile, openCheckpoint, readStorage } from "../checkpoints/index.ts";
import { dataFiles } from "../data/data-files.ts";
import { holdsImages } from "../data/image-examples.ts";
import { EspalierError, type FileStorage } from "../graph/index.ts";
import { type DataOption, type DataSource, dataSources } from "./data-sources.ts";

/** SHA-256 of what a run starts from; recorded in run.json, so that a resumed run cannot silently go on from something else. */
export interface Fingerprints {
  data: string;
  evalData?: string;
  model: string;
}

/** The files of the data, by their names, so that a changed one can be named. */
export type DataFiles = Readonly<Record<string, FileHash>>;

/** What a run starts from, as run.json records it. */
export interface RunInputs {
  sha256: Fingerprints;
  files: { data?: DataFiles; evalData?: DataFiles };
}

/** @param known hashes of files by their whole paths, which were computed before */
export function runInputs(
  { data, evalData, model }: { data: DataOption; evalData?: string; model: string },
  known: ReadonlyMap<string, FileHash> = new Map(),
): RunInputs {
  const hash = (path: string) => dataHash(path, (file) => known.get(resolve(file)) ?? hashFile(file));
  const [train, held] = [sourcesHash(dataSources(data), hash), evalData === undefined ? undefined : hash(evalData)];
  return {
    sha256: { data: train.sha256, ...(held && { evalData: held.sha256 }), model: modelHash(model) },
    files: { ...listed("data", train.files), ...(held && listed("evalData", held.files)) },
  };
}

/** Thousands of images are not listed one by one. */
const listed = (name: "data" | "evalData", files: DataFiles) => (Object.keys(files).length > 200 ? {} : { [name]: files });

type DataHash = { sha256: string; files: DataFiles };

/** Of one source its own, wherever it lies; of several over their hashes and weights. */
function sourcesHash(sources: readonly DataSource[], hash: (path: string) => DataHash): DataHash {
  const parts = sources.map(({ path }) => hash(path));
  if (parts.length === 1) return parts[0]!;
  const whole = createHash("sha256");
  for (const [i, { sha256 }] of parts.entries()) whole.update(JSON.stringify([sha256, sources[i]!.weight]));
  const files = parts.flatMap(({ files }, i) => {
    const { path } = sources[i]!;
    return Object.entries(files).map(([name, file]) => [name === basename(path) ? path : join(path, name), file] as const);
  });
  return { sha256: whole.digest("hex"), files: Object.fromEntries(files) };
}

/** Of a file as `sha256sum` prints it; of a directory or of several files, over their names and hashes. */
function dataHash(path: string, hashOf: (file: string) => FileHash): { sha256: string; files: DataFiles } {
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isFile()) {
      const file = hashOf(path);
      return { sha256: file.sha256, files: { [basename(path)]: file } };
    }
    const paths = holdsImages(path) ? filesBelow(path) : dataFiles(path);
    const files = Object.fromEntries(paths.map((file) => [relative(path, file), hashOf(file)]));
    const hash = createHash("sha256");
    for (const [name, { sha256 }] of Object.entries(files)) hash.update(JSON.stringify([name, sha256]));
    return { sha256: hash.digest("hex"), files };
  } catch (cause) {
    if (cause instanceof EspalierError) throw cause;
    throw new EspalierError("data-unreadable", `${path}: cannot be read (${(cause as Error).message}).`, { cause });
  }
}

const filesBelow = (directory: string): string[] =>
  readdirSync(directory, { recursive: true, encoding: "utf8" })
    .map((name) => join(directory, name))
    .filter((path) => statSync(path).isFile())
    .sort();

/** Of each tensor only the beginning is read: a base model may have gigabytes, and weights that were trained further differ everywhere. */
const sampledBytes = 1024;

/** Over the configuration, then name, type, shape and first bytes of every tensor in the order of the names, however the weights are sharded. */
function modelHash(model: string): string {
  const { config, configFile, tensors } = openCheckpoint(model);
  const gguf = findGguf(model);
  const hash = createHash("sha256").update(gguf === undefined ? readFileSync(configFile) : JSON.stringify(config));
  const stored = gguf === undefined ? tensors : storedTensors(gguf);
  for (const name of [...stored.keys()].sort()) {
    const storage = stored.get(name) as FileStorage;
    const length = Math.min(storage.byteLength, sampledBytes);
    hash.update(JSON.stringify([name, storage.dtype, storage.shape]));
    hash.update(readStorage({ ...storage, dtype: "uint8", shape: [length], byteLength: length }) as Uint8Array);
  }
  return hash.digest("hex");
}

/** As bytes of the file: quantised values need not be computed to tell models apart. */
function storedTensors(gguf: string): Map<string, FileStorage> {
  const { path: file, tensors } = GgufFile.open(gguf);
  return new Map(
    [...tensors].map(([name, { typeCode, offset, byteLength }]) => [
      `${name} ${typeCode}`,
      { kind: "file", dtype: "uint8", shape: [byteLength], file, offset, byteLength },
    ]),
  );
}
