import { readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { EspalierError } from "../graph/errors.ts";
import { statFile, statsOf } from "./text-file.ts";

const dataFormats = [".jsonl", ".csv", ".txt", ".parquet"] as const;
export type DataFormat = (typeof dataFormats)[number];

const known = ".jsonl, .csv, .parquet or .txt";

const formatOf = (file: string): DataFormat | undefined => {
  const name = file.toLowerCase();
  return dataFormats.find((format) => name.endsWith(format) || (format !== ".parquet" && name.endsWith(`${format}.gz`)));
};

/** The format of a data file, told by its extension. */
export function dataFormat(file: string): DataFormat {
  const format = formatOf(file);
  if (format) return format;
  const [extension] = /\.[^.]*$/.exec(basename(file)) ?? [];
  const found = extension === undefined ? "has no extension" : `has the extension "${extension.toLowerCase()}"`;
  throw new EspalierError("data-extension", `${file}: ${found}, but the format is told by it. Name the file ${known}.`);
}

/**
 * The data files that a path stands for, in the order of their names: itself, the files of a directory, or those that match a pattern
 * (`*` and `?` in the last part: `shards/train-*.parquet`). All have one format. Hidden files and files of other kinds are passed over.
 * @throws EspalierError `data-missing`, `data-directory`, `data-extension`, `data-mixed`
 */
export function dataFiles(path: string): string[] {
  const stats = statsOf(path);
  if (stats?.isDirectory()) {
    const files = listed(path).filter((file) => formatOf(file));
    if (files.length > 0) return oneFormat(path, files);
    throw new EspalierError(
      "data-directory",
      `${path}: is a directory without data files in it (${known}). Name a data file, or a directory of them.`,
    );
  }
  if (!stats && /[*?]/.test(basename(path))) {
    const source = basename(path).replace(/[.+^${}()|[\]\\]/g, "\\$&");
    const pattern = new RegExp(`^${source.replaceAll(/\*+/g, "[^/]*").replaceAll("?", "[^/]")}$`);
    const files = listed(dirname(path)).filter((file) => pattern.test(basename(file)) && formatOf(file));
    if (files.length > 0) return oneFormat(path, files);
    throw new EspalierError("data-missing", `${path}: matches no data file (${known}). Check the pattern.`);
  }
  statFile(path);
  dataFormat(path);
  return [path];
}

function listed(directory: string): string[] {
  try {
    const names = readdirSync(directory, { withFileTypes: true }).filter((entry) => !entry.isDirectory() && !entry.name.startsWith("."));
    return names.map(({ name }) => join(directory, name)).sort();
  } catch (cause) {
    throw new EspalierError("data-missing", `${directory}: cannot be listed (${(cause as Error).message}). Check the path.`, { cause });
  }
}

function oneFormat(path: string, files: string[]): string[] {
  const other = files.find((file) => formatOf(file) !== formatOf(files[0]!));
  if (!other) return files;
  throw new EspalierError(
    "data-mixed",
    `${path}: holds data files of different formats (${basename(files[0]!)}, ${basename(other)}). Name the ones meant by a pattern such as ${join(path, `*${formatOf(other)}`)}.`,
  );
}
