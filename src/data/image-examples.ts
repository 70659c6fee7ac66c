import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, extname, join, resolve } from "node:path";
import { EspalierError } from "../graph/errors.ts";
import { dataFiles } from "./data-files.ts";
import { type Example, examplesOf, type ReadOptions } from "./examples.ts";
import { printable, refuseProblems } from "./json-lines.ts";
import { fileRows } from "./rows.ts";
import { statsOf } from "./text-file.ts";

/**
 * An image of a data set. Its `text`, by which images are compared, is the SHA-256 of the file: a split keeps equal files together and drops
 * repeated ones, and knows nothing of images that merely look alike.
 */
export interface ImageExample extends Example {
  /** The image file. Nobody has looked into it yet. */
  path: string;
}

export interface ImageReadOptions extends Pick<ReadOptions, "labelColumn"> {
  /** The column that holds the path, absolute or relative to the data file; "image" unless told. */
  imageColumn?: string;
}

const imageExtensions: ReadonlySet<string> = new Set([".jpg", ".jpeg", ".png", ".webp"]);
const kinds = ".jpg, .png or .webp";
const isImage = (name: string) => imageExtensions.has(extname(name).toLowerCase());
/** What file managers and version control leave about. */
const isHidden = (name: string) => name.startsWith(".");

/** Whether the path is a directory of images: `<class>/<image>`, or images alone. A data file with a column of paths is told by the caller. */
export function holdsImages(path: string): boolean {
  if (!statsOf(path)?.isDirectory()) return false;
  return entries(path).some(({ name, directory }) => (directory ? entries(join(path, name)).some((e) => isImage(e.name)) : isImage(name)));
}

/**
 * The images of a directory `<class>/<image>.{jpg,jpeg,png,webp}`, each labelled with its class, in the order of their names; or of a data file
 * (.jsonl, .csv, .parquet) with a column of paths. Images that lie in the directory itself have no label: either all have one or none has.
 * @throws EspalierError `data-images`, `data-missing`, and what reading records throws
 */
export function readImageExamples(path: string, options: ImageReadOptions = {}): ImageExample[] {
  const examples = statsOf(path)?.isDirectory() ? imagesOfDirectory(path) : imagesOfFiles(path, options);
  return examples.map((example) => ({ ...example, text: contentHash(example.path) }));
}

function imagesOfDirectory(directory: string): Omit<ImageExample, "text">[] {
  const top = entries(directory);
  const loose = top.filter((entry) => !entry.directory && isImage(entry.name)).map(({ name }) => join(directory, name));
  const classes = top.filter((entry) => entry.directory).map(({ name }) => ({ name, images: imagesBelow(join(directory, name)) }));
  const labelled = classes.flatMap(({ name, images }) => images.map((path) => ({ path, label: name, file: path, line: 1 })));
  if (loose.length > 0 && labelled.length > 0)
    throw new EspalierError(
      "data-images",
      `${directory}: ${loose.length} images lie beside the directories of classes (${loose[0]}), so that their class is not known. Move them into one.`,
    );
  if (loose.length > 0) return loose.map((path) => ({ path, file: path, line: 1 }));
  const empty = classes.find(({ images }) => images.length === 0);
  if (labelled.length === 0 || empty)
    throw new EspalierError(
      "data-images",
      `${empty && labelled.length > 0 ? join(directory, empty.name) : directory}: holds no image. A directory of images has one directory per class with ${kinds} files in it.`,
    );
  return labelled;
}

/** Images of a class may lie in directories of their own. */
function imagesBelow(directory: string): string[] {
  return entries(directory).flatMap(({ name, directory: below }) =>
    below ? imagesBelow(join(directory, name)) : isImage(name) ? [join(directory, name)] : [],
  );
}

function entries(directory: string): { name: string; directory: boolean }[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter(({ name }) => !isHidden(name))
      .map((entry) => ({ name: entry.name, directory: entry.isDirectory() }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (cause) {
    throw new EspalierError("data-unreadable", `${directory}: cannot be read (${(cause as Error).message}). Check its permissions.`, {
      cause,
    });
  }
}

function imagesOfFiles(path: string, { imageColumn = "image", labelColumn }: ImageReadOptions): Omit<ImageExample, "text">[] {
  return dataFiles(path).flatMap((file) => {
    const rows = fileRows(file, { like: `{"${imageColumn}": "cat.jpg"}`, wanted: [imageColumn, labelColumn ?? "label"] });
    const read = examplesOf(rows, file, {
      textColumn: imageColumn,
      textOption: "imageColumn",
      ...(labelColumn !== undefined && { labelColumn }),
    });
    const problems = [...rows.problems, ...read.problems];
    const examples = read.examples.map((example) => ({ ...example, path: resolve(dirname(file), example.text) }));
    for (const { path: image, text, line } of examples) {
      if (!isImage(image)) problems.push({ line, code: "data-images", reason: `names "${printable(text)}", which is no ${kinds} file` });
      else if (!statsOf(image)?.isFile())
        problems.push({ line, code: "data-missing", reason: `names ${printable(image)}, which does not exist` });
    }
    refuseProblems(
      file,
      problems.sort((a, b) => a.line - b.line),
    );
    return examples;
  });
}

function contentHash(path: string): string {
  try {
    return createHash("sha256").update(readFileSync(path)).digest("hex");
  } catch (cause) {
    throw new EspalierError("data-unreadable", `${path}: cannot be read (${(cause as Error).message}). Check its permissions.`, { cause });
  }
}
