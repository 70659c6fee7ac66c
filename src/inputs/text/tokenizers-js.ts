/**
 * The part of Tokenizers.js that Espalier uses, with types: the package's own declarations import without file extensions, which TypeScript's
 * NodeNext resolution reads as `any`.
 */
import * as tokenizersJs from "@huggingface/tokenizers";

export interface LibraryTokenizer {
  readonly model: { encode(tokens: string[]): string[] };
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  decode(ids: number[], options: { skip_special_tokens: boolean }): string;
  get_vocab(withAddedTokens?: boolean): Map<string, number>;
}

interface Library {
  Tokenizer: new (tokenizerJson: object, tokenizerConfig: object) => LibraryTokenizer;
  SplitPreTokenizer: new (config: object) => { pattern: RegExp | null };
}

const library = tokenizersJs as unknown as Library;

export function createLibraryTokenizer(tokenizerJson: object, tokenizerConfig: object): LibraryTokenizer {
  return new library.Tokenizer(tokenizerJson, tokenizerConfig);
}

/** The JavaScript form of a `Split` pre-tokenizer's regular expression; the library translates Oniguruma's syntax. */
export function splitPattern(splitConfig: object): RegExp | undefined {
  return new library.SplitPreTokenizer(splitConfig).pattern ?? undefined;
}
