/**
 * Decodes tokens as they are generated and never shows half a character: bytes wait until their UTF-8 sequence is whole.
 */
export type TextStreamSource =
  /** Byte-level vocabularies: a token's bytes, or `undefined` for a token that is not shown. */
  | { bytes: (id: number) => Uint8Array | undefined }
  /** Any other decoder: the text of all ids so far; whatever a later token may still change is held back. */
  | { decode: (ids: number[]) => string };

export class TextStream {
  readonly #source: TextStreamSource;
  // A byte order mark inside generated text is text.
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly #ids: number[] = [];
  #shown = "";

  constructor(source: TextStreamSource) {
    this.#source = source;
  }

  /** @returns the text that this id completes, often `""` in the middle of a character. */
  push(id: number): string {
    if ("bytes" in this.#source) {
      const bytes = this.#source.bytes(id);
      return bytes ? this.#utf8.decode(bytes, { stream: true }) : "";
    }
    this.#ids.push(id);
    const text = this.#source.decode(this.#ids);
    // U+FFFD at the end may be the first half of a character whose rest is still to come.
    return text.endsWith("\ufffd") ? "" : this.#advance(text);
  }

  /** What is left when no more ids come; an unfinished character shows as U+FFFD. The stream can then be used again. */
  end(): string {
    if ("bytes" in this.#source) return this.#utf8.decode();
    const rest = this.#ids.length === 0 ? "" : this.#advance(this.#source.decode(this.#ids));
    this.#ids.length = 0;
    this.#shown = "";
    return rest;
  }

  #advance(text: string): string {
    const added = text.startsWith(this.#shown) ? text.slice(this.#shown.length) : "";
    if (added !== "") this.#shown = text;
    return added;
  }
}
