import { existsSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { dataFiles } from "../data/records.ts";
import { EspalierError } from "../graph/index.ts";

/** Training data as the options say them: a path, or several sources of which some have a weight. */
export type DataOption = string | (string | { path: string; weight: number })[];

/** A part of the training data that is drawn from as often as its weight says. */
export interface DataSource {
  /** Of the file or directory, for figures and messages. */
  name: string;
  path: string;
  /** Relative to the others'. Undefined for all where nobody gave a weight: each is drawn from according to its size. */
  weight: number | undefined;
}

/** One `--data`, after those before it. A file that exists is meant as a whole, whatever its name looks like: `mail.jsonl:0.3`. */
export function parseData(text: string, previous: unknown): unknown {
  const [, path, weight] = /^(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)$/i.exec(text) ?? [];
  const source = path === undefined || existsSync(text) ? text : { path, weight: Number(weight) };
  if (previous === undefined) return typeof source === "string" ? source : [source];
  return [...(Array.isArray(previous) ? previous : [previous]), source];
}

/** @throws EspalierError `data-sources` where a file is in two of them */
export function dataSources(data: DataOption): DataSource[] {
  const given = (typeof data === "string" ? [data] : data).map((source) => (typeof source === "string" ? { path: source } : source));
  const weighted = given.some((source) => "weight" in source);
  const names = namesOf(given.map(({ path }) => path));
  const sources = given.map(({ path, ...rest }, i): DataSource => {
    const weight = "weight" in rest ? rest.weight : weighted ? 1 : undefined;
    return { name: names[i]!, path, weight };
  });
  if (sources.length > 1) refuseTwice(sources);
  return sources;
}

/** What the files are called, with the directories before them where that is the same. */
function namesOf(paths: readonly string[]): string[] {
  const plain = (path: string) => path.replace(/(\.\w+)(\.gz)?$/i, "");
  const short = paths.map((path) => plain(basename(path)));
  return paths.map((path, i) => (short.filter((name) => name === short[i]).length > 1 ? plain(path) : short[i]!));
}

function refuseTwice(sources: readonly DataSource[]): void {
  const seen = new Map<string, string>();
  for (const { path } of sources) {
    const images = statSync(path, { throwIfNoEntry: false })?.isDirectory() && !holdsData(path);
    for (const file of images ? [path] : dataFiles(path)) {
      const other = seen.get(resolve(file));
      if (other !== undefined)
        throw new EspalierError(
          "data-sources",
          `${file} is given twice${other === path ? "" : `, by ${other} and by ${path}`}. Leave it out once; a weight (${file}:2) says how often it is drawn from.`,
        );
      seen.set(resolve(file), path);
    }
  }
}

function holdsData(directory: string): boolean {
  try {
    return dataFiles(directory).length > 0;
  } catch {
    return false; // images, or what whoever reads it will complain of
  }
}
