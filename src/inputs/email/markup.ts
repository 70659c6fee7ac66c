import { compile, type FormatCallback } from "html-to-text";

/** A link reads as its text and, unless the text says it already, the host that it leads to: `Click here [shop.example]`. */
const link: FormatCallback = (element, walk, builder) => {
  walk(element.children, builder);
  const host = /^\s*(?:https?|ftp):\/\/(?:[^/?#\s@]*@)?([^/?#\s:]+)/i.exec(element.attribs?.href ?? "")?.[1];
  if (host) builder.addInline(` [${host.toLowerCase()}]`);
};

const convert = compile({
  wordwrap: false,
  formatters: { link },
  selectors: [
    { selector: "a", format: "link" },
    { selector: "img", format: "skip" },
    ...["h1", "h2", "h3", "h4", "h5", "h6"].map((selector) => ({ selector, options: { uppercase: false } })),
  ],
  // A mail is not a book: these bounds keep hostile markup from taking minutes.
  limits: { maxInputLength: 1 << 20, maxDepth: 200, maxChildNodes: 5000, ellipsis: "" },
});

/** HTML as text; markup that the converter refuses is stripped of its tags. */
export function markupText(html: string): string {
  try {
    return convert(html);
  } catch {
    return html.replace(/<[^<>]*>/g, " ");
  }
}

/** Whether a text that claims to be plain is HTML: it opens as a document, or holds several of the tags that mails use. */
export function looksLikeMarkup(text: string): boolean {
  const start = text.slice(0, 20_000);
  if (/^\s*<(?:!doctype|html|head|body|table|center|font)\b/i.test(start)) return true;
  return (start.match(/<\/?(?:html|body|table|tr|td|font|center|br|p|b|a|div|span|img)\b[^<>]{0,500}>/gi)?.length ?? 0) >= 8;
}
