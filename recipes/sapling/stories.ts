/**
 * Narrative and dialogue from the data files of two free games: the only fiction, beside Brown's, that distributions package as text.
 */
import type { Paragraph } from "./prose.ts";

/** Battle for Wesnoth: `message= _ "…"` is speech, `story=`, `description=` and `note=` narrate. `""` stands for a quote mark. */
export function readWml(source: string): Paragraph[] {
  const paragraphs: Paragraph[] = [];
  for (const [, key, value] of source.matchAll(/\b(message|story|description|note)\s*=\s*_\s*"((?:[^"]|"")*)"/g)) {
    // `$unit.name` is filled in by the game, `female^…` picks a variant for translators: neither is a sentence.
    if (/[$^@|]/.test(value!)) continue;
    const text = value!.replaceAll('""', "'").replace(/<[^>]*>/g, "");
    for (const part of text.split(/\n\s*\n/)) {
      const words = part.replace(/\s+/g, " ").trim();
      if (words.length >= 20 && /[a-z]/.test(words)) paragraphs.push({ text: key === "message" ? `"${words}"` : words });
    }
  }
  return paragraphs;
}

/** Endless Sky: conversations are paragraphs in backticks; choices are short, in brackets or quotes, and stay. */
export function readEndlessSky(source: string): Paragraph[] {
  const paragraphs: Paragraph[] = [];
  for (const [, value] of source.matchAll(/`([^`]*)`/g)) {
    const text = value!.trim();
    // `<planet>` and the like are filled in by the game.
    if (text.length >= 20 && !/[<>@_]/.test(text) && text.includes(" ")) paragraphs.push({ text });
  }
  return paragraphs;
}
