/** One text to learn from, and where it stands, so that a message about it can name the place. */
export interface Example {
  text: string;
  label?: string;
  file: string;
  /** Counted from 1; of a record of several lines, the first. */
  line: number;
}

/** What cutting texts to a length has cost: it is counted and told, never silent. */
export interface Truncation {
  /** Texts that were cut. */
  count: number;
  /** Texts in all. */
  of: number;
  /** Tokens of the longest text before it was cut. */
  longest: number;
  /** Tokens that a text may have. */
  limit: number;
}
