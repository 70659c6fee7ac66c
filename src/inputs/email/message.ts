import PostalMime, { type Address, type Email } from "postal-mime";
import { foldText } from "./fold-text.ts";
import { looksLikeMarkup, markupText } from "./markup.ts";

/**
 * A raw e-mail (RFC 822 bytes, an mbox "From " line allowed) as the text a classifier reads:
 *
 * ```
 * From: Ada Lovelace example.org
 * Subject: Notes on the engine
 * Attachments: table.pdf (application/pdf)
 *
 * the body, preferably its text/plain part, else its HTML as text with the hosts of its links
 * ```
 *
 * Of the headers only the sender's name and domain and the subject are used. The rest would give the answer away or tells how a
 * corpus was collected rather than what the mail is: verdicts of other filters (X-Spam-*), routes and mailboxes (Received,
 * Delivered-To, Return-Path, To), mailing-list headers (List-*, X-BeenThere, Precedence), mail programs (X-Mailer, Message-Id),
 * and dates. Whitespace is folded, addresses of pages are cut to their hosts, and encoded blobs are cut.
 *
 * Never throws: of bytes that are no mail, whatever reads as text is returned. The "Attachments" line is there only when there are some.
 */
export async function messageText(raw: Uint8Array): Promise<string> {
  const bytes = withoutMboxLine(raw);
  let email: Pick<Email, "from" | "subject" | "text" | "html" | "attachments">;
  try {
    email = await PostalMime.parse(bytes, { maxNestingDepth: 64 });
  } catch {
    // The parser rejects what exceeds its limits (nesting, size of headers); such a mail still deserves a verdict.
    email = { text: new TextDecoder("windows-1252").decode(bytes), attachments: [] };
  }
  const head = [`From: ${senderText(email.from)}`, `Subject: ${oneLine(email.subject ?? "")}`];
  if (email.attachments.length > 0) {
    const names = email.attachments.map(({ filename, mimeType }) =>
      filename ? `${oneLine(filename)} (${oneLine(mimeType)})` : oneLine(mimeType),
    );
    head.push(`Attachments: ${names.join(", ")}`);
  }
  return `${head.map((line) => line.trim()).join("\n")}\n\n${bodyText(email.text, email.html)}`.trim();
}

function bodyText(text: string | undefined, html: string | undefined): string {
  const plain = text?.trim() ? text : undefined;
  // Much spam declares its HTML as text/plain, or declares nothing.
  if (plain && !looksLikeMarkup(plain)) return foldText(plain);
  return foldText(markupText(html?.trim() ? html : (plain ?? "")));
}

function senderText(from: Address | undefined): string {
  // The local part is left out: it names a person or is random, and invites learning the corpus by heart.
  const name = oneLine(from?.name ?? "").replace(/[^\s@<>"']*@/g, "");
  const domain = oneLine(from?.address ?? "").replace(/^.*@/, "");
  return name === domain ? domain : `${name} ${domain}`.trim();
}

function oneLine(text: string): string {
  return foldText(text).replace(/\s+/g, " ").slice(0, 300);
}

/** Mailboxes put an envelope line before the headers; it is no header, and its date and sender are artefacts of delivery. */
function withoutMboxLine(raw: Uint8Array): Uint8Array {
  const marker = [0x46, 0x72, 0x6f, 0x6d, 0x20]; // "From "
  if (!marker.every((byte, i) => raw[i] === byte)) return raw;
  return raw.subarray(raw.indexOf(0x0a) + 1);
}
