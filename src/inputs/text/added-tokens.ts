/** Where added tokens stand in a text, and how some of their occurrences are kept from being tokens. */
import type { TokenizerConfig, TokenizerFile } from "./tokenizer-file.ts";
import { createLibraryTokenizer, type LibraryTokenizer } from "./tokenizers-js.ts";

/** From, to (excluded): indices of a string's UTF-16 units. */
export type TextRange = readonly [begin: number, end: number];

/** Matches the added tokens, the longest first as the library's trie does; one capturing group. */
export function addedTokenPattern(file: TokenizerFile): RegExp | undefined {
  const contents = file.added_tokens.map((token) => token.content).filter((content) => content !== "");
  if (contents.length === 0) return undefined;
  contents.sort((a, b) => b.length - a.length || (a < b ? -1 : 1));
  return new RegExp(`(${contents.map((content) => content.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`);
}

/** The text between added tokens at the even positions, the tokens at the odd ones. What reaches into a literal range is text. */
export function splitAtTokens(text: string, pattern: RegExp, literal: readonly TextRange[]): string[] {
  // A capturing group makes `split` return the tokens too.
  if (literal.length === 0) return text.split(pattern);
  const search = new RegExp(pattern.source, "g");
  const sections: string[] = [];
  let from = 0;
  for (let match = search.exec(text); match; match = search.exec(text)) {
    const [begin, end] = [match.index, match.index + match[0].length];
    if (literal.some((range) => begin < range[1] && end > range[0])) search.lastIndex = begin + 1;
    else {
      sections.push(text.slice(from, begin), match[0]);
      from = end;
    }
  }
  sections.push(text.slice(from));
  return sections;
}

/**
 * The library finds added tokens itself, wherever they stand. This one knows them by other names, which `rename` gives and no text has:
 * what is called so is a token, and their own names are text.
 */
export class RenamedTokens {
  readonly #file: TokenizerFile;
  readonly #config: TokenizerConfig;
  readonly #libraries = new Map<string, LibraryTokenizer>();

  constructor(file: TokenizerFile, config: TokenizerConfig) {
    this.#file = file;
    this.#config = config;
  }

  /** Ids of a text that {@link splitAtTokens} has cut. */
  encode(sections: readonly string[]): (number | undefined)[] {
    const text = sections.join("");
    const mark = markOutside(text);
    const tokens = this.#file.added_tokens;
    const named = sections.map((section, i) =>
      i % 2 === 0
        ? section
        : rename(
            mark,
            tokens.findIndex(({ content }) => content === section),
          ),
    );
    let library = this.#libraries.get(mark);
    if (!library) {
      const added_tokens = tokens.map((token, i) => ({ ...token, content: rename(mark, i) }));
      library = createLibraryTokenizer({ ...this.#file, added_tokens }, this.#config);
      this.#libraries.set(mark, library);
    }
    return library.encode(named.join(""), { add_special_tokens: false }).ids;
  }
}

const rename = (mark: string, index: number): string => mark + String.fromCodePoint(0xf0000 + index);

/** A code point that Unicode reserves for a program's own use (U+FDD0 to U+FDEF) and that the text lacks. */
function markOutside(text: string): string {
  for (let code = 0xfdd0; code <= 0xfdef; code++) if (!text.includes(String.fromCharCode(code))) return String.fromCharCode(code);
  return "\ufdd0".repeat(longestRun(text, "\ufdd0") + 1);
}

const longestRun = (text: string, char: string): number =>
  Math.max(0, ...Array.from(text.matchAll(new RegExp(`${char}+`, "g")), ([run]) => run.length));
