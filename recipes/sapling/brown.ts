/**
 * The Brown corpus tags every word (`The/at jury/nn said/vbd ,/,`) and spaces its punctuation. This writes it as it was printed.
 */
import type { Paragraph } from "./prose.ts";

/** Paragraphs start with a tab; a line is a sentence. */
export function readBrown(source: string): Paragraph[] {
  const paragraphs: Paragraph[] = [];
  let sentences: string[] = [];
  const flush = () => {
    if (sentences.length > 0) paragraphs.push({ text: sentences.join(" ") });
    sentences = [];
  };
  for (const line of source.split("\n")) {
    if (line.trim() === "") continue;
    if (line.startsWith("\t")) flush();
    const sentence = detokenise(line.trim().split(/\s+/).map(untag));
    if (sentence !== "") sentences.push(sentence);
  }
  flush();
  return paragraphs;
}

function untag(token: string): string {
  const slash = token.lastIndexOf("/");
  return slash > 0 ? token.slice(0, slash) : token;
}

/** Joins spaced tokens into English spacing: `` `` Yes '' , he said . `` → `"Yes", he said.` */
export function detokenise(tokens: readonly string[]): string {
  let text = "";
  let glue = true;
  let previous = "";
  let straightQuoteOpen = false;
  for (let token of tokens) {
    // The tagger doubled sentence-final marks ("; ;", "? ?", "! !").
    if (token === previous && /^[;?!]$/.test(token)) {
      previous = "";
      continue;
    }
    previous = token;
    let opening = token === "``" || token === "`" || token === "(" || token === "[" || token === "{" || token === "$";
    let closing = token === "''" || /^[.,;:?!)\]}%]+$/.test(token) || (token === "'" && text !== "");
    if (token === '"') {
      opening = !straightQuoteOpen;
      closing = straightQuoteOpen;
      straightQuoteOpen = !straightQuoteOpen;
    }
    if (token === "``" || token === "''") token = '"';
    if (token === "`") token = "'";
    text += glue || closing ? token : ` ${token}`;
    glue = opening;
  }
  return text.replaceAll("``", '"').replaceAll("''", '"').trim();
}
