import type { EncodedExample, Truncation } from "../../data/index.ts";
import { encodedTexts, type TokenCacheOptions } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { Family } from "../../models/family.ts";

/**
 * How a text is put before a model where nothing else is said: its place is marked by `{text}`. A decoder answers at the last token, which the template
 * ends with; an encoder reads the text alone.
 */
export const defaultTemplate = (family: Family): string => (family.causalLM ? "{text}\n\nLabel:" : "{text}");

export interface SequenceEncoderOptions {
  /** See {@link defaultTemplate}. */
  template: string;
  /** Tokens per text, template included. */
  maxLength: number;
}

/** Turns texts into the ids that a model with a head on the whole sequence reads. Long texts lose their end, never the template. */
export class SequenceEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #before: readonly number[];
  readonly #after: readonly number[];
  readonly #maxLength: number;

  constructor(tokenizer: Tokenizer, { template, maxLength }: SequenceEncoderOptions) {
    const [before, after, ...more] = template.split("{text}");
    if (after === undefined || more.length > 0)
      throw new EspalierError("bad-option", `The template ${JSON.stringify(template)} must contain {text} once.`);
    const encode = (text: string) => (text === "" ? [] : tokenizer.encode(text, { addSpecialTokens: false }));
    this.#tokenizer = tokenizer;
    const { prefix, suffix } = tokenizer.surroundings;
    // Tokenizers of decoders often add nothing by themselves, though their models were taught a start token.
    const start = prefix.length + suffix.length > 0 || tokenizer.bosId === undefined ? prefix : [tokenizer.bosId];
    this.#before = [...start, ...encode(before!)];
    this.#after = [...encode(after), ...suffix];
    this.#maxLength = maxLength;
    if (this.#room < 1)
      throw new EspalierError(
        "bad-option",
        `A length of ${maxLength} tokens leaves no room for the text: the template alone takes ${this.#before.length + this.#after.length}.`,
      );
  }

  get #room(): number {
    return this.#maxLength - this.#before.length - this.#after.length;
  }

  /** The ids of one text. */
  ids(text: string): number[] {
    const own = this.#tokenizer.encode(text, { addSpecialTokens: false });
    return [...this.#before, ...own.slice(0, this.#room), ...this.#after];
  }

  /** @param cache where ids are kept for the next time; nowhere unless told */
  encode(
    texts: readonly { text: string; label?: number; description: string }[],
    cache: TokenCacheOptions = { cache: false },
  ): { examples: EncodedExample[]; truncation: Truncation } {
    let count = 0;
    let longest = 0;
    const table = encodedTexts(
      this.#tokenizer,
      texts.map(({ text }) => text),
      cache,
    );
    const examples = texts.map(({ label, description }, row) => {
      const ids = Array.from(table.ids(row));
      longest = Math.max(longest, ids.length);
      if (ids.length > this.#room) count++;
      return { ids: [...this.#before, ...ids.slice(0, this.#room), ...this.#after], label, description };
    });
    table.close();
    return { examples, truncation: { count, of: texts.length, longest, limit: this.#room } };
  }
}

/** Says what was cut, if anything was. */
export function truncationNote(name: string, { count, of, longest, limit }: Truncation): string[] {
  return count === 0
    ? []
    : [
        `${count} of ${of} ${name} texts are longer than ${limit} tokens (the longest has ${longest}): their ends were cut off; --max-length changes that`,
      ];
}
