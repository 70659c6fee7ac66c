/**
 * The pages of a column chunk, decoded by hyparquet after what it would take on trust has been checked: a length or a count that the file states
 * wrongly would have it loop or fill the memory. hyparquet's decoders are imported one by one because its front door is asynchronous, and a batch is
 * made on the spot; its version is pinned for that.
 */
import type { DecodedArray, FileMetaData, SchemaTree } from "hyparquet";
import { parquetHeader, readPage } from "hyparquet/src/column.js";
import { convert, DEFAULT_PARSERS } from "hyparquet/src/convert.js";
import { getMaxDefinitionLevel, getMaxRepetitionLevel, isFlatColumn } from "hyparquet/src/schema.js";
import { compressors } from "hyparquet-compressors";
import { checkThrift } from "./parquet-thrift.ts";

type PageHeader = ReturnType<typeof parquetHeader>;
type ColumnDecoder = Parameters<typeof readPage>[2];
type ColumnMetaData = NonNullable<FileMetaData["row_groups"][number]["columns"][number]["meta_data"]>;

/** A page larger than this for its compressed size is no text: gzip reaches 1032 to 1. */
const largestPage = (compressed: number) => 2 ** 24 + 1100 * compressed;

const strict = new TextDecoder("utf-8", { fatal: true });
const text = (bytes: Uint8Array | undefined) => bytes && strict.decode(bytes);
const parsers = {
  ...DEFAULT_PARSERS,
  stringFromBytes: text,
  jsonFromBytes: (bytes: Uint8Array | undefined) => bytes && JSON.parse(text(bytes)!),
};

/**
 * The values of one leaf column in a row group, nested lists assembled.
 * @param bytes of the column chunk
 * @param rows of the row group
 */
export function columnValues(bytes: Uint8Array, meta: ColumnMetaData, schemaPath: SchemaTree[], rows: number): DecodedArray {
  const reader = { view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), offset: 0 };
  const isFlat = isFlatColumn(schemaPath);
  const decoder: ColumnDecoder = {
    pathInSchema: meta.path_in_schema,
    type: meta.type,
    element: schemaPath.at(-1)!.element,
    schemaPath,
    codec: "UNCOMPRESSED",
    parsers,
  };
  const valueCount = Number(meta.num_values);
  let dictionary: DecodedArray | undefined;
  let last: DecodedArray | undefined;
  const chunks: DecodedArray[] = [];
  let count = 0;
  // A row of a nested column may go on in the next page, so that one is read to its end.
  while (reader.offset < bytes.length && !(isFlat && count >= rows)) {
    checkThrift(bytes, reader.offset);
    const header = parquetHeader(reader);
    const stored = header.compressed_page_size;
    if (!(stored >= 0 && reader.offset + stored <= bytes.length)) throw new Error(`a page of ${stored} bytes does not fit the column`);
    const page = openPage(header, bytes.subarray(reader.offset, reader.offset + stored), meta.codec);
    reader.offset += stored;
    const held = header.data_page_header?.num_values ?? header.data_page_header_v2?.num_values ?? header.dictionary_page_header?.num_values;
    if (held === undefined || !(held >= 0 && held <= Math.max(valueCount, header.type === "DICTIONARY_PAGE" ? page.length : 0)))
      throw new Error(`a page states ${held} values, and the column ${valueCount}`);
    checkRuns(page, header, schemaPath);
    const own = { view: new DataView(page.buffer, page.byteOffset, page.byteLength), offset: 0 };
    const { data } = readPage(
      own,
      { ...header, compressed_page_size: page.length, uncompressed_page_size: page.length },
      decoder,
      dictionary,
      last,
      0,
    );
    if (header.type === "DICTIONARY_PAGE") dictionary = data && convert(data, decoder);
    else if (data && data !== last) {
      count += data.length;
      chunks.push(data);
      last = data;
    }
  }
  const values = chunks.length === 1 ? chunks[0]! : chunks.flatMap((chunk) => Array.from(chunk as ArrayLike<unknown>));
  if (values.length !== rows) throw new Error(`it holds ${values.length} rows, and the row group ${rows}`);
  return values;
}

/** The page's bytes, decompressed. The levels of the second version of data pages are never compressed. */
function openPage(header: PageHeader, stored: Uint8Array, codec: ColumnMetaData["codec"]): Uint8Array {
  const size = header.uncompressed_page_size;
  if (!(size >= 0 && size <= largestPage(stored.length)))
    throw new Error(`a page of ${stored.length} bytes states ${size} when decompressed`);
  const v2 = header.data_page_header_v2;
  const levels = v2 ? v2.repetition_levels_byte_length + v2.definition_levels_byte_length : 0;
  if (!(levels >= 0 && levels <= Math.min(size, stored.length))) throw new Error(`levels of ${levels} bytes do not fit their page`);
  if (codec === "UNCOMPRESSED" || size === levels || v2?.is_compressed === false) {
    // Nothing at all, compressed, may take a byte.
    if (stored.length !== size && (codec === "UNCOMPRESSED" || size > levels))
      throw new Error(`a page of ${stored.length} bytes states ${size}`);
    return stored.slice(0, size);
  }
  const decompress = compressors[codec];
  if (!decompress) throw new Error(`it is compressed with ${codec}, which is not supported`);
  const values = decompress(stored.subarray(levels), size - levels);
  if (values.length !== size - levels) throw new Error(`a page of ${values.length + levels} bytes states ${size}`);
  const page = new Uint8Array(size);
  page.set(stored.subarray(0, levels));
  page.set(values, levels);
  return page;
}

/** Levels and indices into the dictionary are runs with counts (Parquet's hybrid of run lengths and packed bits). */
function checkRuns(page: Uint8Array, header: PageHeader, schemaPath: SchemaTree[]): void {
  const { data_page_header: v1, data_page_header_v2: v2 } = header;
  const data = v1 ?? v2;
  if (!data) return;
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  let at = 0;
  const [repetition, definition] = [getMaxRepetitionLevel(schemaPath), getMaxDefinitionLevel(schemaPath)];
  const levels = [
    { max: repetition, bytes: v2?.repetition_levels_byte_length },
    { max: definition, bytes: v2?.definition_levels_byte_length },
  ];
  for (const { max, bytes } of levels) {
    if (max === 0 && bytes === undefined) continue;
    const length = bytes ?? view.getUint32(at, true);
    if (bytes === undefined) at += 4;
    if (at + length > page.length) throw new Error(`levels of ${length} bytes do not fit their page`);
    if (max > 0) checkHybrid(page, at, at + length, 32 - Math.clz32(max), data.num_values);
    at += length;
  }
  const isBoolean = schemaPath.at(-1)!.element.type === "BOOLEAN";
  if (data.encoding === "RLE" && isBoolean) checkHybrid(page, v1 ? at + 4 : at, page.length, 1, data.num_values);
  else if (data.encoding?.endsWith("_DICTIONARY") && at < page.length) checkHybrid(page, at + 1, page.length, page[at]!, data.num_values);
}

function checkHybrid(page: Uint8Array, start: number, end: number, width: number, count: number): void {
  if (width > 32) throw new Error(`indices of ${width} bits`);
  let at = start;
  for (let seen = 0; seen < count && at < end; ) {
    let [header, shift] = [0, 0];
    for (let byte = 0x80; byte & 0x80; shift += 7) {
      if (at >= end || shift > 28) throw new Error("a run does not end in its page");
      byte = page[at++]!;
      header += (byte & 0x7f) * 2 ** shift;
    }
    const packed = header % 2 === 1;
    const values = packed ? ((header - 1) / 2) * 8 : header / 2;
    // The last packed run is filled up to a multiple of eight values; writers may fill up to a whole group of 64.
    if (values > count - seen + (packed ? 512 : 0)) throw new Error(`a run of ${values} values stands where ${count - seen} are left`);
    at += packed ? (values / 8) * width : (width + 7) >> 3;
    seen += values;
  }
}
