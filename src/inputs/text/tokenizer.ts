/**
 * Text to token ids and back, as a checkpoint's `tokenizer.json` defines it, through Hugging Face's Tokenizers.js.
 *
 * The common shape (byte-level BPE behind one regular expression) takes a path of our own: pre-tokens are looked up in a cache and only
 * new ones go through the library's merges. The ids are the same, many times faster on long text. Nothing here imports from Node.
 */
import { EspalierError } from "../../graph/errors.ts";
import { TimeLimitError, withinTime } from "../../graph/time-limit.ts";
import { addedTokenPattern, RenamedTokens, splitAtTokens, type TextRange } from "./added-tokens.ts";
import { fromByteLevel, toByteLevel } from "./byte-level.ts";
import { type PiecePattern, piecePattern } from "./piece-pattern.ts";
import { TextStream } from "./text-stream.ts";
import {
  checkTokenizerJson,
  type SpecialTokenName,
  specialTokenContent,
  type TokenizerConfig,
  type TokenizerFile,
} from "./tokenizer-file.ts";
import { createLibraryTokenizer, type LibraryTokenizer } from "./tokenizers-js.ts";

export interface EncodeOptions {
  /** Adds what the post-processor defines, such as a start token. Default `true`, as in transformers. */
  addSpecialTokens?: boolean;
  /** Parts of the text in which nothing is an added token, whatever it looks like. */
  literal?: readonly TextRange[];
}

export interface DecodeOptions {
  skipSpecialTokens?: boolean;
}

/** So many distinct pre-tokens are remembered; beyond that the cache starts afresh. */
const cacheCapacity = 200_000;

export class Tokenizer {
  /** One more than the largest id: the number of rows that an embedding needs. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly unkId: number | undefined;
  /** Added tokens that stand for more than their text, as `tokenizer.json` spells them. */
  readonly specialTokens: readonly string[];
  /** Longest input the checkpoint states, in tokens. */
  readonly maxLength: number | undefined;

  /** Equal for tokenizers made from the same files. Absent where nobody said what they were made from. */
  readonly fingerprint: string | undefined;

  readonly #library: LibraryTokenizer;
  readonly #where: string;
  readonly #config: TokenizerConfig;
  readonly #idOfToken: ReadonlyMap<string, number>;
  readonly #tokenOfId: readonly (string | undefined)[];
  readonly #added: ReadonlyMap<string, number>;
  readonly #special: ReadonlySet<number>;
  readonly #pieces: PiecePattern | undefined;
  readonly #addedPattern: RegExp | undefined;
  readonly #renamed: RenamedTokens;
  readonly #byteLevel: boolean;
  readonly #cache = new Map<string, readonly number[]>();
  #around: { prefix: number[]; suffix: number[] } | undefined;

  private constructor(file: TokenizerFile, config: TokenizerConfig, library: LibraryTokenizer, where: string, fingerprint?: string) {
    this.fingerprint = fingerprint;
    this.#library = library;
    this.#where = where;
    this.#config = config;
    this.#idOfToken = library.get_vocab();
    this.#added = new Map(file.added_tokens.map((token) => [token.content, token.id]));
    const special = file.added_tokens.filter((token) => token.special);
    this.#special = new Set(special.map((token) => token.id));
    this.specialTokens = special.map((token) => token.content).filter((content) => content !== "");
    this.#renamed = new RenamedTokens(file, config);
    const tokens: (string | undefined)[] = [];
    for (const [token, id] of this.#idOfToken) tokens[id] = token;
    this.#tokenOfId = tokens;
    this.vocabSize = tokens.length;
    this.#byteLevel = file.decoder?.type === "ByteLevel";
    this.#pieces = piecePattern(file);
    this.#addedPattern = addedTokenPattern(file);
    const idOf = (name: SpecialTokenName) => {
      const content = specialTokenContent(config, name);
      return content === undefined ? undefined : this.tokenId(content);
    };
    this.bosId = idOf("bos_token");
    this.eosId = idOf("eos_token");
    this.padId = idOf("pad_token");
    this.unkId = idOf("unk_token");
    // transformers writes 1e30 for "no limit".
    this.maxLength = config.model_max_length !== undefined && config.model_max_length < 1e9 ? config.model_max_length : undefined;
  }

  /**
   * From the parsed contents of `tokenizer.json` and `tokenizer_config.json`. `where` names the file in errors.
   * @param fingerprint a hash of what it is made from, by which tokenised data are kept
   * @throws EspalierError `tokenizer-broken` when the contents do not define a tokenizer.
   */
  static fromJson(tokenizerJson: unknown, tokenizerConfig: unknown = {}, where = "tokenizer.json", fingerprint?: string): Tokenizer {
    const { file, config } = checkTokenizerJson(tokenizerJson, tokenizerConfig, where);
    try {
      // Spaces before punctuation are cleaned up only where the checkpoint asks for it; the library's default would break round trips.
      const library = createLibraryTokenizer(file, { clean_up_tokenization_spaces: false, ...config });
      return new Tokenizer(file, config, library, where, fingerprint);
    } catch (cause) {
      throw brokenTokenizer(where, cause);
    }
  }

  /** @returns plain ids; wrap them in the integer type that the consumer wants. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    if (this.#pieces?.linear) return this.#encode(text, options);
    return this.#bounded(text.length, () => this.#encode(text, options));
  }

  #encode(text: string, { addSpecialTokens = true, literal = [] }: EncodeOptions): number[] {
    if (!this.#pieces && literal.length === 0)
      return this.#checked(this.#guard(() => this.#library.encode(text, { add_special_tokens: addSpecialTokens }).ids));
    const ids: number[] = [];
    if (addSpecialTokens) ids.push(...this.surroundings.prefix);
    const sections = this.#addedPattern ? splitAtTokens(text, this.#addedPattern, literal) : [text];
    if (!this.#pieces) ids.push(...this.#checked(this.#guard(() => this.#renamed.encode(sections))));
    else
      for (let i = 0; i < sections.length; i++) {
        if (i % 2 === 1) ids.push(this.#added.get(sections[i]!)!);
        else if (sections[i] !== "") this.#encodePieces(sections[i]!, ids);
      }
    if (addSpecialTokens) ids.push(...this.surroundings.suffix);
    if (literal.length > 0) this.#refuseSpelledTokens(ids, sections, text, literal);
    return ids;
  }

  /** Bytes that do not form whole UTF-8 characters become U+FFFD. */
  decode(ids: ArrayLike<number>, { skipSpecialTokens = false }: DecodeOptions = {}): string {
    const list = Array.from(ids);
    for (const id of list) {
      if (this.#tokenOfId[id] === undefined) {
        throw new EspalierError(
          "unknown-token-id",
          `Token id ${id} is not in this tokenizer's vocabulary of ${this.vocabSize}. Was the text encoded with another tokenizer?`,
        );
      }
    }
    if (!this.#byteLevel || this.#config.clean_up_tokenization_spaces) {
      if (list.length === 0) return "";
      return this.#bounded(list.length, () => this.#guard(() => this.#library.decode(list, { skip_special_tokens: skipSpecialTokens })));
    }
    const stream = this.stream({ skipSpecialTokens });
    let text = "";
    for (const id of list) text += stream.push(id);
    return text + stream.end();
  }

  /** A decoder for ids that arrive one at a time. */
  stream({ skipSpecialTokens = true }: DecodeOptions = {}): TextStream {
    if (!this.#byteLevel) return new TextStream({ decode: (ids) => this.decode(ids, { skipSpecialTokens }) });
    return new TextStream({ bytes: (id) => (skipSpecialTokens && this.#special.has(id) ? undefined : this.#bytesOf(id)) });
  }

  /** The id of a vocabulary entry, spelled as in `tokenizer.json`. */
  tokenId(token: string): number | undefined {
    return this.#idOfToken.get(token);
  }

  token(id: number): string | undefined {
    return this.#tokenOfId[id];
  }

  /** Whether the id is one of the added tokens, which are found in a text before it is cut into pieces. */
  isAdded(id: number): boolean {
    const token = this.#tokenOfId[id];
    return token !== undefined && this.#added.has(token);
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  #bytesOf(id: number): Uint8Array {
    const token = this.#tokenOfId[id] ?? "";
    return (this.#added.has(token) ? undefined : fromByteLevel(token)) ?? new TextEncoder().encode(token);
  }

  /** Vocabularies exist in which the text of a token is that token, even where it was not looked for. */
  #refuseSpelledTokens(ids: readonly number[], sections: readonly string[], text: string, literal: readonly TextRange[]): void {
    for (const [begin, end] of literal) {
      const token = text.slice(begin, end);
      const id = this.#added.get(token);
      const meant = sections.filter((section, i) => i % 2 === 1 && section === token).length;
      if (id === undefined || ids.filter((other) => other === id).length <= meant) continue;
      throw new EspalierError(
        "special-token-in-text",
        `The text holds ${JSON.stringify(token)}, which ${this.#where} cannot encode as mere text: its vocabulary has no other way to spell it. Take it out of the text.`,
      );
    }
  }

  #encodePieces(text: string, into: number[]): void {
    const { expression } = this.#pieces!;
    let from = 0;
    for (const match of text.matchAll(expression)) {
      if (match.index > from) this.#encodePiece(text.slice(from, match.index), into);
      if (match[0] !== "") this.#encodePiece(match[0], into);
      from = match.index + match[0].length;
    }
    if (from < text.length) this.#encodePiece(text.slice(from), into);
  }

  #encodePiece(piece: string, into: number[]): void {
    let ids = this.#cache.get(piece);
    if (!ids) {
      ids = this.#checked(
        this.#guard(() => this.#library.model.encode([toByteLevel(piece)])).map((token) => this.#idOfToken.get(token) ?? this.unkId),
      );
      if (this.#cache.size >= cacheCapacity) this.#cache.clear();
      this.#cache.set(piece, ids);
    }
    for (const id of ids) into.push(id);
  }

  /** What the post-processor puts before and after a text, seen from an example. */
  get surroundings(): { readonly prefix: readonly number[]; readonly suffix: readonly number[] } {
    if (!this.#around) {
      const bare = this.#checked(this.#guard(() => this.#library.encode("a", { add_special_tokens: false }).ids));
      const whole = this.#checked(this.#guard(() => this.#library.encode("a", { add_special_tokens: true }).ids));
      const at = whole.findIndex((_, start) => bare.every((id, i) => whole[start + i] === id));
      this.#around = at < 0 ? { prefix: [], suffix: [] } : { prefix: whole.slice(0, at), suffix: whole.slice(at + bare.length) };
    }
    return this.#around;
  }

  /**
   * The file's regular expressions may take any time. Honest tokenizers take 0.3 to 7 µs a character, so 50 are theirs, and a quarter of a second
   * (twice, see {@link withinTime}): a text of 5000 characters is refused after a second, a longer one later.
   */
  #bounded<T>(length: number, run: () => T): T {
    try {
      return withinTime(250 + Math.ceil(length / 20), run);
    } catch (cause) {
      if (!(cause instanceof TimeLimitError)) throw cause;
      throw new EspalierError(
        "tokenizer-slow",
        `${this.#where} ${cause.message} with a text of ${length} characters: a pattern in it backtracks without an end. Copy the file from the original checkpoint again, and do not use it if it came so.`,
        { cause },
      );
    }
  }

  /** Some mistakes in a file show only when the library applies it. */
  #guard<T>(run: () => T): T {
    try {
      return run();
    } catch (cause) {
      throw brokenTokenizer(this.#where, cause);
    }
  }

  #checked(ids: readonly (number | undefined | null)[]): number[] {
    return ids.map((id) => {
      if (typeof id === "number" && this.#tokenOfId[id] !== undefined) return id;
      throw new EspalierError(
        "token-missing",
        `This text needs a token that the vocabulary of ${this.#where} lacks, and no unknown token is defined. The file is incomplete: copy it from the original checkpoint again.`,
      );
    });
  }
}

function brokenTokenizer(where: string, cause: unknown): EspalierError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new EspalierError(
    "tokenizer-broken",
    `${where} does not work as a tokenizer: ${reason}. Copy the file from the original checkpoint again.`,
    { cause },
  );
}
