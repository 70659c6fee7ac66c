/**
 * One reader per format of documentation: each turns a file into paragraphs and leaves out what is not prose (code, tables, menus).
 * They read what these packages contain, not every document of the format.
 */
import { readBrown } from "./brown.ts";
import type { Paragraph } from "./prose.ts";
import { readEndlessSky, readWml } from "./stories.ts";

export type Reader = "brown" | "html" | "pod" | "rst" | "glossary" | "wml" | "endless-sky";

/** Edited prose throughout: the filter that keeps code and tables out of manuals would only thin it. */
export const trustedReaders: ReadonlySet<Reader> = new Set<Reader>(["brown", "wml", "endless-sky"]);

/** One file may hold many documents: a glossary's entries are read in groups of forty. */
export function readDocuments(reader: Reader, source: string): Paragraph[][] {
  switch (reader) {
    case "brown":
      return [readBrown(source)];
    case "html":
      return [readHtml(source)];
    case "pod":
      return [readPod(source)];
    case "rst":
      return [readRst(source)];
    case "glossary":
      return readGlossary(source);
    case "wml":
      return [readWml(source)];
    case "endless-sky":
      return [readEndlessSky(source)];
  }
}

const entities: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: " ",
  mdash: "\u2014",
  ndash: "\u2013",
  hellip: "...",
  lsquo: "'",
  rsquo: "'",
  ldquo: '"',
  rdquo: '"',
  para: "",
  copy: "(c)",
  times: "x",
  middot: "-",
};

function decodeEntities(text: string): string {
  return text.replace(/&(#x?[0-9a-f]+|[a-z]+);/gi, (whole, name: string) => {
    if (name.startsWith("#x") || name.startsWith("#X")) return String.fromCodePoint(Number.parseInt(name.slice(2), 16));
    if (name.startsWith("#")) return String.fromCodePoint(Number(name.slice(1)));
    return entities[name] ?? whole;
  });
}

/** HTML, DocBook's HTML and GNOME's Mallard pages, which share enough tags. */
export function readHtml(source: string): Paragraph[] {
  const body = /<body[^>]*>([\s\S]*)<\/body>/i.exec(source)?.[1] ?? source;
  const text = body
    .replace(/<!--[\s\S]*?-->|<\?[\s\S]*?\?>/g, "")
    .replace(
      /<(script|style|pre|table|nav|header|footer|svg|math|head|info|screen|code-block|listing|form|select)\b[^>]*>[\s\S]*?<\/\1>/gi,
      "\n\n",
    )
    .replace(/\s+/g, " ")
    .replace(/<(h[1-6]|title)\b[^>]*>([\s\S]*?)<\/\1>/gi, (_, _tag, inner: string) => `\n\n\u0001${inner}\n\n`)
    .replace(
      /<\/?(p|div|li|ul|ol|dl|dt|dd|section|article|item|list|steps|terms|note|blockquote|td|tr|page|br|hr|media|figure|main|aside)\b[^>]*>/gi,
      "\n\n",
    )
    .replace(/<[^>]*>/g, "");
  return decodeEntities(text)
    .split(/\n\n+/)
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map((part) => (part.startsWith("\u0001") ? { text: part.slice(1), heading: true } : { text: part }));
}

/** Perl's plain old documentation: indented blocks are code, `=head` lines headings, `C<…>` and friends inline markup. */
export function readPod(source: string): Paragraph[] {
  const paragraphs: Paragraph[] = [];
  let inPod = false;
  let skipping = false;
  for (const block of source.split(/\n\s*\n/)) {
    const command = /^=(\w+)\s*([\s\S]*)/.exec(block);
    if (command) {
      inPod = command[1] !== "cut";
      if (command[1] === "begin") skipping = true;
      if (command[1] === "end") skipping = false;
      if (command[1]!.startsWith("head")) paragraphs.push({ text: stripPod(command[2]!), heading: true });
    } else if (inPod && !skipping && /^\S/.test(block)) paragraphs.push({ text: stripPod(block) });
  }
  return paragraphs;
}

function stripPod(text: string): string {
  let result = text
    .replace(/E<(\w+)>/g, (_, name: string) => ({ lt: "<", gt: ">", sol: "/", verbar: "|" })[name] ?? "")
    .replace(/[XZ]<[^<>]*>/g, "");
  for (let depth = 0; depth < 4; depth++) {
    result = result
      .replace(
        /L<([^<>|]*\|)?([^<>]*)>/g,
        (_, label: string | undefined, target: string) => label?.slice(0, -1) ?? target.replace(/^\/"?|"$/g, "").replace(/"?\/"?/, " "),
      )
      .replace(/[BCFIS]<<+\s([\s\S]*?)\s>>+/g, "$1")
      .replace(/[BCFIS]<([^<>]*)>/g, "$1");
  }
  return result;
}

/** reStructuredText: only paragraphs at the left margin or in bulleted items; underlined lines are headings. */
export function readRst(source: string): Paragraph[] {
  const paragraphs: Paragraph[] = [];
  for (const block of source.split(/\n\s*\n/)) {
    const lines = block.split("\n").filter((line) => line.trim() !== "");
    const underline = lines.findIndex((line) => /^([=\-~^"'#*+.])\1{2,}\s*$/.test(line));
    if (underline >= 0) {
      const title = lines.find((line) => /\w/.test(line));
      if (title && lines.length <= 3) paragraphs.push({ text: stripRst(title), heading: true });
      continue;
    }
    const first = lines[0] ?? "";
    if (/^\s{4,}|^\t|^\.\. |^:|^\||^\+[-=]/.test(first) || /[-=]{4,}\s+[-=]{4,}/.test(block)) continue;
    paragraphs.push({ text: stripRst(lines.join(" ").replace(/^\s*(?:[-*•]|\d+[.)]|\(?[a-z]\))\s+/, "")) });
  }
  return paragraphs;
}

function stripRst(text: string): string {
  return text
    .replace(/:[\w:]+:`([^`<]*?)\s*(?:<[^>]*>)?`/g, "$1")
    .replace(/``([^`]*)``/g, "$1")
    .replace(/`([^`<]*?)\s*(?:<[^>]*>)?`_*/g, "$1")
    .replace(/\*\*?([^*\s][^*]*?)\*\*?/g, "$1")
    .replace(/::\s*$/, ":");
}

/** Headwords alone on a line (FOLDOC) or between colons (the Jargon File), then indented definitions. */
export function readGlossary(source: string): Paragraph[][] {
  const documents: Paragraph[][] = [];
  let entries: Paragraph[] = [];
  let headword = "";
  for (const block of source.split(/\n\s*\n/)) {
    const line = block.trim();
    const jargon = /^:([^:\n]{2,60}):/.exec(line);
    if (jargon || (/^\S/.test(block) && !line.includes("\n"))) {
      headword = jargon?.[1] ?? line;
      continue;
    }
    const definition = line
      .replace(/\s+/g, " ")
      .replace(/^(?:\d+\.\s*)?(?:<[^>]*>\s*)*/, "")
      .replace(/\{\(?(?:https?|ftp|news):[^}]*\}\.?/g, "")
      .replace(/\{([^}]*)\}/g, "$1")
      .replace(/__(\w[^_]*)__/g, "$1");
    // The headword leads its first paragraph only, as in a printed glossary.
    entries.push({ text: headword !== "" && headword.length <= 60 ? `${headword}: ${definition}` : definition });
    headword = "";
    if (entries.length >= 40) {
      documents.push(entries);
      entries = [];
    }
  }
  if (entries.length > 0) documents.push(entries);
  return documents;
}
