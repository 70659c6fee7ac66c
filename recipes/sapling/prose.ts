/**
 * From raw paragraphs to clean English prose: one spelling of quotes, dashes and spaces; no code, tables, addresses or foreign text.
 * The filters are plain counts, so that what was dropped can be explained.
 */

/** A paragraph as a reader found it. Headings are kept only above prose. */
export interface Paragraph {
  text: string;
  heading?: boolean;
}

const spellings: readonly [RegExp, string][] = [
  [/[\u2018\u2019\u201a\u2032]/g, "'"],
  [/[\u201c\u201d\u201e\u2033\u00ab\u00bb]/g, '"'],
  [/\s*[\u2014\u2015]\s*/g, " -- "],
  [/[\u2010-\u2013\u2212]/g, "-"],
  [/\u2026/g, "..."],
  [/[\u00b6\u00a7\u200b-\u200f\u00ad\ufeff\u2060]/g, ""],
  [/[\s\u00a0\u2000-\u200a\u202f]+/g, " "],
];

export function normalise(text: string): string {
  let result = text.normalize("NFC");
  for (const [pattern, replacement] of spellings) result = result.replace(pattern, replacement);
  return result.trim();
}

const functionWords = new Set(
  "a an and are as at be been but by can do for from had has have he her his i if in into is it its may not of on one or she so that the their them then there these they this to was we were when which who will with would you your".split(
    " ",
  ),
);

/** Whether a normalised paragraph reads as English sentences rather than as code, a table, an address or a list of names. */
export function isProse(text: string): boolean {
  if (text.length < 45 || !/[.!?:;)"']$/.test(text)) return false;
  if (/\S+@\S+\.\S+/.test(text) || /^(from|to|cc|subject|date|message-id|received):/i.test(text)) return false;
  const words = text.split(" ");
  if (words.length < 8 || words.some((word) => word.length > 60)) return false;
  let letters = 0;
  let foreign = 0;
  for (const char of text) {
    if ((char >= "a" && char <= "z") || (char >= "A" && char <= "Z") || char === " ") letters++;
    else if (char > "~") foreign++;
  }
  if (letters < text.length * 0.86 || foreign > text.length * 0.02) return false;
  const functional = words.filter((word) => functionWords.has(word.toLowerCase().replace(/[^a-z]/g, ""))).length;
  return functional >= words.length * 0.2;
}

export function isHeading(text: string): boolean {
  return text.length >= 3 && text.length <= 90 && /^[A-Z0-9"'(]/.test(text) && (text.match(/[A-Za-z ]/g)?.length ?? 0) >= text.length * 0.8;
}

/**
 * The clean paragraphs of one document. `seen` holds the paragraphs of all documents before it: a licence notice or a repeated
 * introduction is read once in the whole corpus. `trusted` text (already edited prose) skips the prose filter.
 */
export function cleanDocument(paragraphs: Iterable<Paragraph>, seen: Set<string>, trusted = false): string {
  const kept: string[] = [];
  let heading: string | undefined;
  for (const paragraph of paragraphs) {
    const text = normalise(paragraph.text);
    if (paragraph.heading) {
      const title = text.replace(/^(chapter|section|appendix)?\s*[\dA-Z]+(\.\d+)*\.?\s+(?=\S)/i, "").replace(/\s*#$/, "");
      heading = isHeading(title) ? title : undefined;
      continue;
    }
    if (!trusted && !isProse(text)) continue;
    const key = text.toLowerCase().replace(/[^a-z]/g, "");
    if (seen.has(key)) continue;
    seen.add(key);
    if (heading !== undefined) kept.push(heading);
    heading = undefined;
    kept.push(text);
  }
  return kept.join("\n\n");
}
