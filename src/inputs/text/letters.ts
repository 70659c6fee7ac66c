import { EspalierError } from "../../graph/errors.ts";

/** The letters that a recogniser of speech spells with (`vocab.json` of wav2vec 2.0 and its relatives): one token each, one of which stands for the gap between words. */
export class Letters {
  /** By their ids; ids without a letter hold an empty text. */
  readonly letters: readonly string[];
  readonly #ids: ReadonlyMap<string, number>;
  readonly #gap: string;
  readonly #silent: ReadonlySet<number>;

  /** @param gap the letter between words */
  constructor(letters: readonly string[], gap = "|") {
    this.letters = letters;
    this.#gap = gap;
    this.#ids = new Map(letters.flatMap((letter, id) => (letter === "" ? [] : [[letter, id] as const])));
    this.#silent = new Set(letters.flatMap((letter, id) => (/^(<.+>|\[.+\])?$/s.test(letter) ? [id] : [])));
  }

  /** @param vocabulary letter → id, as the file has it */
  static fromVocabulary(vocabulary: Readonly<Record<string, unknown>>, gap: string, file: string): Letters {
    const letters: string[] = [];
    for (const [letter, id] of Object.entries(vocabulary)) {
      if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= 2 ** 16 || letters[id] !== undefined)
        throw new EspalierError(
          "tokenizer-broken",
          `${file}: the letter ${JSON.stringify(letter)} has no id of its own (${JSON.stringify(id)}).`,
        );
      letters[id] = letter;
    }
    return new Letters(
      Array.from(letters, (letter) => letter ?? ""),
      gap,
    );
  }

  /** All letters of some texts, for a model that has not learnt any yet. `blank` is the id that stands for none. */
  static ofTexts(texts: readonly string[], blank = 0): Letters {
    const found = new Set(texts.flatMap((text) => [...words(text).join("")]));
    found.delete("|");
    const letters = ["|", ...[...found].sort()];
    while (letters.length < blank) letters.push("");
    letters.splice(blank, 0, "<pad>");
    return new Letters(letters);
  }

  /** The ids of a text, and the letters for which there is none. A letter that is only there in the other case is taken in that. */
  encode(text: string): { ids: number[]; unknown: string[] } {
    const unknown: string[] = [];
    const ids = [...words(text).join(this.#gap)].flatMap((letter) => {
      const id = [letter, letter.toUpperCase(), letter.toLowerCase()].map((form) => this.#ids.get(form)).find((id) => id !== undefined);
      if (id === undefined) unknown.push(letter);
      return id === undefined ? [] : [id];
    });
    return { ids, unknown };
  }

  decode(ids: readonly number[]): string {
    const text = ids.map((id) => (this.#silent.has(id) ? "" : (this.letters[id] ?? ""))).join("");
    return text.replaceAll(this.#gap, " ").trim();
  }
}

const words = (text: string): string[] => text.split(/\s+/u).filter((word) => word !== "");
