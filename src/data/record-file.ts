import { isUtf8 } from "node:buffer";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { EspalierError } from "../graph/errors.ts";
import { csvRows } from "./csv-rows.ts";
import { type DataFormat, dataFormat } from "./data-files.ts";
import { ParquetFile } from "./parquet-file.ts";
import { csvRecords, jsonRows, type RowOptions, type Rows } from "./rows.ts";
import { firstInvalidByte, statFile } from "./text-file.ts";

/** A piece of a file that begins and ends with a record. */
export interface Piece {
  /** In bytes; of a Parquet file the number of its row group. */
  offset: number;
  length: number;
  /** The first line, from 1; of a Parquet file the first row. */
  line: number;
}

/** Pieces end with the first record that reaches so many bytes. */
const pieceBytes = 32 * 1024;
const longestRecord = 2 ** 26;

/** A data file that is never in memory as a whole: cut into pieces once, which then can be read in any order. */
export class RecordFile {
  readonly file: string;
  readonly format: DataFormat;
  readonly size: number;
  readonly modified: bigint;
  readonly #descriptor: number;
  readonly #options: RowOptions;
  readonly #parquet: ParquetFile | undefined;
  #header: { columns: string[]; line: number } | undefined;

  constructor(file: string, options: RowOptions) {
    statFile(file);
    this.file = file;
    this.format = dataFormat(file);
    this.#options = options;
    if (file.toLowerCase().endsWith(".gz"))
      throw new EspalierError(
        "data-gzip",
        `${file}: a compressed file cannot be read as a stream, for there is no way into its middle. Decompress it (gunzip).`,
      );
    this.#descriptor = openSync(file, "r");
    const { size, mtimeNs } = fstatSync(this.#descriptor, { bigint: true });
    this.size = Number(size);
    this.modified = mtimeNs;
    if (this.format === ".parquet") this.#parquet = new ParquetFile(file);
  }

  /** The pieces in their order, each with its rows. */
  *pieces(): Generator<{ piece: Piece; rows: Rows }> {
    let line = 1;
    if (this.#parquet) {
      for (const [group, count] of this.#parquet.groupSizes.entries()) {
        const piece = { offset: group, length: 1, line };
        yield { piece, rows: this.rows(piece) };
        line += count;
      }
      return;
    }
    for (let offset = 0; offset < this.size; ) {
      const length = this.#pieceLength(offset);
      const piece = { offset, length, line };
      const text = this.#text(piece);
      yield { piece, rows: this.#parse(text, line, offset === 0) };
      line += text.split("\n").length - 1;
      offset += length;
    }
  }

  /** The rows of a piece; a piece of a .txt file is one row. */
  rows(piece: Piece): Rows {
    this.#refuseChange();
    if (this.#parquet) {
      const values = this.#parquet.rows(piece.offset, this.#options.wanted);
      return { rows: values.map((value, i) => ({ value, line: piece.line + i })), problems: [], columns: this.#parquet.columns };
    }
    if (this.format === ".csv" && !this.#header && piece.offset > 0) {
      // A file whose index was kept: its header has not been seen yet.
      const length = this.#pieceLength(0);
      this.#parse(this.#text({ offset: 0, length, line: 1 }), 1, true);
    }
    return this.#parse(this.#text(piece), piece.line, piece.offset === 0);
  }

  close(): void {
    closeSync(this.#descriptor);
    this.#parquet?.close();
  }

  #parse(text: string, line: number, first: boolean): Rows {
    if (this.format === ".txt") return { rows: text.trim() === "" ? [] : [{ value: { text }, line }], problems: [] };
    if (this.format === ".jsonl") return jsonRows(text, this.#options.like, line);
    if (text.trim() === "") return { rows: [], problems: [] };
    const { rows, problems } = csvRows(text, this.file, line);
    if (first) {
      const header = rows.shift()!;
      this.#header = { columns: header.cells.map((cell) => cell.trim()), line: header.line };
    }
    return csvRecords(this.#header!.columns, this.#header!.line, rows, problems);
  }

  #text({ offset, length }: Piece): string {
    const bytes = this.#bytes(offset, length);
    if (!isUtf8(bytes)) {
      const at = firstInvalidByte(bytes);
      throw new EspalierError(
        "data-utf8",
        `${this.file}: is not UTF-8: byte 0x${bytes[at]!.toString(16)} at offset ${offset + at} fits no character. Save the file as UTF-8.`,
      );
    }
    // A byte-order mark can only stand at the beginning.
    return new TextDecoder("utf-8", { ignoreBOM: offset > 0 }).decode(bytes).replace(/\r\n?/g, "\n");
  }

  /** Up to the first end of a record that is far enough. */
  #pieceLength(offset: number): number {
    let [length, searched, quoted] = [0, 0, false];
    for (let ask = pieceBytes * 2; ; ask *= 2) {
      const bytes = this.#bytes(offset, Math.min(ask, this.size - offset));
      if (this.format === ".csv") {
        // A line end within quotes is part of a cell.
        for (; searched < bytes.length && length === 0; searched++) {
          if (bytes[searched] === 0x22) quoted = !quoted;
          else if (bytes[searched] === 0x0a && !quoted && searched >= pieceBytes) length = searched + 1;
        }
      } else length = bytes.indexOf(0x0a, pieceBytes) + 1;
      if (length > 0) return length;
      if (offset + bytes.length >= this.size) return bytes.length;
      if (bytes.length >= longestRecord)
        throw new EspalierError(
          "data-too-large",
          `${this.file}: the record at offset ${offset} has no end within ${longestRecord / 2 ** 20} MiB. Check the line ends${this.format === ".csv" ? " and quotes" : ""}.`,
        );
    }
  }

  #bytes(offset: number, length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    for (let done = 0; done < length; ) {
      const read = readSync(this.#descriptor, bytes, done, length - done, offset + done);
      if (read === 0) this.#refuseChange(true);
      done += read;
    }
    return bytes;
  }

  #refuseChange(certain = false): void {
    const { size, mtimeNs } = fstatSync(this.#descriptor, { bigint: true });
    if (!certain && Number(size) === this.size && mtimeNs === this.modified) return;
    throw new EspalierError(
      "data-changed",
      `${this.file}: was changed while it was in use. Leave data alone while a run reads them, and start the run again.`,
    );
  }
}
