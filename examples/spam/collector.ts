/**
 * Takes out what the corpus's collector wrote into the messages. He replaced his own addresses, and the senders of feeds that he
 * read as mail, by invented ones (`zzzz@spamassassin.taint.org`), in a way that differs between ham and spam: a classifier that
 * learnt them would know the collector, not spam. Nothing is put in their place, since any substitute would tell as much.
 */
export function withoutCollector(text: string): string {
  return text
    .replace(collector, "")
    .replace(/[^\S\n]+/g, " ")
    .replace(/ $/gm, "");
}

// An address at one of his hosts, or the bare host; and his names for himself (jm, or a letter repeated) standing alone.
const collector =
  /(?:[\w.+=-]*@)?(?:[\w-]+\.)*(?:taint\.org|netnoteinc\.com|jmason\.org|slashnull\.org)\b|\b(?:z{4,}|y{4,}|q{4,})(?:[-.\w]*\b)(?:@[\w.-]+)?/gi;
