const longestWord = 60;

/**
 * Text without what a small model's window should not be spent on: runs of blanks and rules, addresses of pages beyond the host,
 * base64 and uuencoded blobs, and characters that print nothing. Well-formed Unicode in, or made so.
 */
export function foldText(text: string): string {
  const lines: string[] = [];
  for (const raw of text.replace(/\r\n?/g, "\n").split("\n")) {
    const line = isUuencoded(raw) ? "" : foldLine(raw);
    // One blank line separates paragraphs; more say nothing.
    if (line !== "" || (lines.length > 0 && lines.at(-1) !== "")) lines.push(line);
  }
  return lines.join("\n").trim();
}

function foldLine(line: string): string {
  return (
    line
      .replace(/[\p{Cc}\p{Z}]+/gu, " ")
      // Soft hyphens, zero-width characters and the like, which hide words from filters; and lone surrogates.
      .replace(/\p{Cf}+/gu, "")
      .replace(/\p{Cs}/gu, "\ufffd")
      .replace(/\b(https?|ftp):\/\/([^\s/?#<>"'()[\]]+)[^\s<>"')\]]*/gi, "$1://$2/")
      .replace(/([^\p{L}\p{N}\s])\1{3,}/gu, "$1$1$1")
      .split(" ")
      .map((word) => (word.length > longestWord ? shortened(word) : word))
      .filter((word) => word !== "")
      .join(" ")
  );
}

/** Base64 leaves nothing, since its first letters say as little as its last; another long word keeps its start. */
function shortened(word: string): string {
  if (/^[A-Za-z0-9+/=_-]+$/.test(word)) return "";
  return `${[...word].slice(0, longestWord / 2).join("")}…`;
}

/** A full line of uuencode: its length (45 bytes, "M") and 60 characters from blank to backquote, so never a small letter. */
function isUuencoded(line: string): boolean {
  return /^M[ -`]{60}\s*$/.test(line);
}
