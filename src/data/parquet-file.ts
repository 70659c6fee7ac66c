import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { type FileMetaData, parquetMetadata, parquetSchema, type SchemaTree } from "hyparquet";
import { assembleNested } from "hyparquet/src/assemble.js";
import { DEFAULT_PARSERS } from "hyparquet/src/convert.js";
import { getTreePath } from "hyparquet/src/schema.js";
import { EspalierError } from "../graph/errors.ts";
import { printable } from "./json-lines.ts";
import { columnValues } from "./parquet-pages.ts";
import { checkThrift } from "./parquet-thrift.ts";
import { statFile } from "./text-file.ts";

/** More rows than any writer puts into one group by itself; Arrow's default is a million. */
const mostRows = 2 ** 24;

/** A Parquet file, read one row group at a time. */
export class ParquetFile {
  readonly columns: readonly string[];
  /** Rows of each group. */
  readonly groupSizes: readonly number[];
  readonly #file: string;
  readonly #descriptor: number;
  readonly #size: number;
  readonly #metadata: FileMetaData;
  readonly #schema: SchemaTree;

  /** @throws EspalierError `data-parquet`, `data-missing`, `data-unreadable` */
  constructor(file: string) {
    statFile(file);
    this.#file = file;
    try {
      this.#descriptor = openSync(file, "r");
    } catch (cause) {
      throw new EspalierError(
        "data-unreadable",
        `${file}: cannot be read (${(cause as Error).message}). Check the path and its permissions.`,
        { cause },
      );
    }
    try {
      this.#size = fstatSync(this.#descriptor).size;
      this.#metadata = this.#guard("its footer", () => parquetMetadata(this.#footer(), { geoparquet: false }));
      this.#schema = this.#guard("its schema", () => parquetSchema(this.#metadata));
      this.columns = this.#guard("its schema", () => this.#schema.children.map(({ element }) => named(element.name)));
      this.groupSizes = this.#guard("its row groups", () =>
        this.#metadata.row_groups.map((group) => this.#groupSize(Number(group.num_rows))),
      );
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The rows of a group, each with the columns asked for that the file has. Values missing in a struct are absent. */
  rows(group: number, wanted?: readonly string[]): Record<string, unknown>[] {
    const { columns } = this.#metadata.row_groups[group]!;
    const count = this.groupSizes[group]!;
    const first = this.groupSizes.slice(0, group).reduce((a, b) => a + b, 0) + 1;
    const names = this.columns.filter((name) => !wanted || wanted.includes(name));
    const read = names.map((name) =>
      this.#guard(`its rows ${first} to ${first + count - 1}, column "${printable(name)}"`, () => {
        const child = this.#schema.children.find((node) => node.element.name === name)!;
        const leaves = new Map<string, ReturnType<typeof columnValues>>();
        for (const { meta_data: meta } of columns) {
          if (meta?.path_in_schema[0] !== name) continue;
          const bytes = this.#chunk(Number(meta.dictionary_page_offset || meta.data_page_offset), Number(meta.total_compressed_size));
          if (!(Number(meta.num_values) <= mostRows * 16)) throw new Error(`it states ${meta.num_values} values`);
          leaves.set(meta.path_in_schema.join("."), columnValues(bytes, meta, getTreePath(this.#schema, meta.path_in_schema), count));
        }
        if (child.children.length > 0) assembleNested(leaves, child, DEFAULT_PARSERS);
        const values = leaves.get(name);
        if (values?.length !== count) throw new Error("it is not there");
        return values;
      }),
    );
    return Array.from({ length: count }, (_, row) => Object.fromEntries(names.map((name, c) => [name, plain(read[c]![row])])));
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #footer(): Uint8Array {
    if (this.#size < 12) throw new Error(`${this.#size} bytes are too few`);
    const tail = this.#chunk(this.#size - 8, 8);
    const length = new DataView(tail.buffer).getUint32(0, true);
    const mark = String.fromCharCode(...tail.subarray(4));
    if (mark === "PARE") throw new Error("it is encrypted, which is not supported");
    if (mark !== "PAR1") throw new Error("it does not end with PAR1");
    if (length > this.#size - 12) throw new Error(`a footer of ${length} bytes does not fit the file`);
    const footer = this.#chunk(this.#size - 8 - length, length + 8);
    checkThrift(footer, 0);
    return footer;
  }

  #groupSize(rows: number): number {
    if (Number.isInteger(rows) && rows >= 0 && rows <= mostRows) return rows;
    throw new Error(`a row group of ${rows} rows; at most ${mostRows} are read at once. Write the file with smaller row groups`);
  }

  #chunk(start: number, length: number): Uint8Array {
    if (!(start >= 0 && length >= 0 && start + length <= this.#size))
      throw new Error(`bytes ${start} to ${start + length} are not in the file`);
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const read = readSync(this.#descriptor, bytes, done, Math.min(length - done, 2 ** 30), start + done);
      if (read === 0) throw new Error("it was cut short while it was read");
      done += read;
    }
    return bytes;
  }

  #guard<T>(what: string, read: () => T): T {
    try {
      return read();
    } catch (cause) {
      const reason = printable((cause as Error).message);
      const message = `${this.#file}: is no Parquet file or is damaged: ${what} cannot be read (${reason}). Write it again.`;
      throw new EspalierError("data-parquet", message, { cause });
    }
  }
}

/** As JSON would have it: columns of structs hold a null for every key that a row lacks, and integers may be bigints. */
function plain(value: unknown): unknown {
  if (value === undefined) return null;
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, inner]) => (inner === null || inner === undefined ? [] : [[key, plain(inner)]])),
  );
}

/** A damaged footer may name a column by nothing. */
function named(name: unknown): string {
  if (typeof name !== "string") throw new Error("a column has no name");
  return name;
}
