import { existsSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Tokenizer } from "../inputs/index.ts";
import { type CacheOptions, contentKey, contentKeyOf, prepareCache } from "./cache-directory.ts";
import { dataFormat } from "./data-files.ts";
import type { Example } from "./examples.ts";
import type { RecordSource } from "./record-source.ts";
import { openTokenTable, type TokenTable, TokenTableWriter } from "./token-table.ts";

/** Raised when the same texts give other ids or are kept otherwise. */
const version = "1";
/** Encoded into every key, so that a change of the tokenizer's code that changes ids shows. */
const probe = "Ünï 🙂 don't  stop\n\t12345 <s>[MASK] ﬁ";

export interface TokenCacheOptions extends CacheOptions {
  onProgress?: (done: number, of: number) => void;
}

/**
 * The table of a key from the cache, or a new one that `build` fills and that is kept for the next time. A damaged file is made again, with a
 * notice. Several processes may do so at once: each writes the whole file and gives it its name at the end.
 */
export function cachedTable(
  key: string,
  shape: { vocabSize: number; marked?: boolean },
  build: (table: TokenTableWriter) => void,
  options: CacheOptions = {},
): TokenTable {
  const found = findTable(key, options);
  if (found) return found;
  const table = newTable(key, shape, options);
  try {
    build(table);
    return table.commit();
  } catch (error) {
    table.abandon();
    throw error;
  }
}

const nameOf = (key: string) => `${key}.tokens`;

/** The table of a key, if the cache holds a sound one. */
function findTable(key: string, options: CacheOptions): TokenTable | undefined {
  const directory = prepareCache(options);
  if (directory === undefined) return undefined;
  const path = join(directory, nameOf(key));
  if (!existsSync(path)) return undefined;
  try {
    return openTokenTable(path, key);
  } catch (error) {
    options.onNotice?.(`${(error as Error).message} It is made again.`);
    return undefined;
  }
}

function newTable(key: string, shape: { vocabSize: number; marked?: boolean }, options: CacheOptions): TokenTableWriter {
  const directory = prepareCache({ ...options, onNotice: undefined } as CacheOptions);
  return new TokenTableWriter(key, { ...shape, path: directory && join(directory, nameOf(key)) });
}

/** What ids depend on besides the text. Undefined for a tokenizer of which nobody knows the files: its ids are not kept. */
export function tokenizerKey(tokenizer: Tokenizer): string | undefined {
  if (tokenizer.fingerprint === undefined) return undefined;
  return contentKey(version, tokenizer.fingerprint, tokenizer.encode(probe).join(" "));
}

/**
 * The ids of each text, without special tokens: from the cache where these texts were encoded with this tokenizer before.
 */
export function encodedTexts(tokenizer: Tokenizer, texts: readonly string[], options: TokenCacheOptions = {}): TokenTable {
  const tokenizerPart = tokenizerKey(tokenizer);
  const build = (table: TokenTableWriter) => {
    for (const [i, text] of texts.entries()) {
      table.add(tokenizer.encode(text, { addSpecialTokens: false }));
      options.onProgress?.(i + 1, texts.length);
    }
  };
  const key = contentKeyOf(["texts", tokenizerPart ?? "", ...texts]);
  return cachedTable(key, tokenizer, build, tokenizerPart === undefined ? { ...options, cache: false } : options);
}

/**
 * The ids of the records of a source, in its own order, an end token after each: for language modelling on texts that are not in memory. Texts are
 * encoded once and kept, where the source and the tokenizer have a key.
 */
export async function encodedRecords(
  tokenizer: Tokenizer,
  source: RecordSource<Example>,
  { onProgress, signal, ...options }: TokenCacheOptions & { signal?: AbortSignal } = {},
): Promise<TokenTable> {
  const tokenizerPart = tokenizerKey(tokenizer);
  const kept = tokenizerPart !== undefined && source.key !== undefined;
  const key = contentKey("records", tokenizerPart ?? "", source.key ?? "");
  const found = kept ? findTable(key, options) : undefined;
  if (found) return found;
  const table = newTable(key, tokenizer, kept ? options : { ...options, cache: false });
  const end = tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
  try {
    let [done, yielded] = [0, performance.now()];
    let before: string | undefined;
    for (let chunk = 0; chunk < source.chunkSizes.length; chunk++) {
      for (const { text, file } of source.chunk(chunk)) {
        // A text file is one text: its pieces are joined again.
        const goesOn = before === undefined || (before === file && dataFormat(file) === ".txt");
        table.add([...(goesOn ? [] : end), ...tokenizer.encode(text, { addSpecialTokens: false })]);
        before = file;
        done++;
        if (performance.now() - yielded < 50) continue;
        onProgress?.(done, source.length);
        await setImmediate();
        signal?.throwIfAborted();
        yielded = performance.now();
      }
    }
    table.add(end);
    onProgress?.(source.length, source.length);
    return table.commit();
  } catch (error) {
    table.abandon();
    throw error;
  }
}
