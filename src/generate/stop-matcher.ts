/**
 * Finds stop strings in text that arrives in pieces. Text that may be the beginning of one is held back until that is decided, so nothing of a
 * stop string is ever shown, and how the text is cut into pieces makes no difference: the stop string that is complete first ends it.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  #held = "";

  /** @param stops strings of at least one character */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** @returns the text that can be shown, and whether a stop string stood behind it. */
  push(piece: string): { text: string; stopped: boolean } {
    const text = this.#held + piece;
    const at = this.#firstStop(text);
    const shown = at ?? text.length - this.#undecided(text);
    this.#held = at === undefined ? text.slice(shown) : "";
    return { text: text.slice(0, shown), stopped: at !== undefined };
  }

  /** What was held back when no more text comes. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /** Where the stop string begins that ends first; the longest of several that end there. */
  #firstStop(text: string): number | undefined {
    let found: { begin: number; end: number } | undefined;
    for (const stop of this.#stops) {
      const begin = text.indexOf(stop);
      const end = begin + stop.length;
      if (begin >= 0 && (!found || end < found.end || (end === found.end && begin < found.begin))) found = { begin, end };
    }
    return found?.begin;
  }

  /** The length of the longest end of `text` that a stop string begins with. */
  #undecided(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) if (text.endsWith(stop.slice(0, n))) longest = n;
    }
    return longest;
  }
}
