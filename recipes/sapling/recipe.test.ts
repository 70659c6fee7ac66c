import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { detokenise, readBrown } from "./brown.ts";
import { ByteKneserNey } from "./byte-ngram.ts";
import { cleanDocument, isProse, normalise } from "./prose.ts";
import { readGlossary, readHtml, readPod, readRst } from "./readers.ts";
import { hashFraction, splitDocuments } from "./split.ts";
import { readEndlessSky, readWml } from "./stories.ts";

const english = "This is a paragraph of plain English, and it is long enough to be kept by the filter.";

describe("Brown's detokeniser", () => {
  it.each([
    ["`` Yes '' , he said .", '"Yes", he said.'],
    ["the jury ( or most of it ) agreed ; ; it cost $ 40 ; ;", "the jury (or most of it) agreed; it cost $40;"],
    ["Do you ? ? He didn't !", "Do you? He didn't!"],
    ["He said : `` Go '' .", 'He said: "Go".'],
  ])("%s", (spaced, printed) => expect(detokenise(spaced.split(" "))).toBe(printed));

  it("drops tags and starts a paragraph at a tab", () => {
    const source = "\n\n\tThe/at jury/nn said/vbd so/rb ./.\nIt/pps met/vbd ./.\n\n\n\tNext/ap 1/2/cd ./.\n";
    expect(readBrown(source)).toEqual([{ text: "The jury said so. It met." }, { text: "Next 1/2." }]);
  });
});

describe("prose", () => {
  it("keeps sentences, and neither code, addresses nor fragments", () => {
    expect(isProse(english)).toBe(true);
    expect(isProse("if (x == 1) { y[i] = f(x, &z); } else { return -1; } /* done here */;")).toBe(false);
    expect(isProse("Please write to someone@example.org if you want to know more about it, and wait for the answer.")).toBe(false);
    expect(isProse("A short one.")).toBe(false);
  });

  it("spells quotes, dashes and spaces one way", () => {
    expect(normalise("\u201cIt\u2019s\u00a0here\u201d\u2014almost\u2026")).toBe('"It\'s here" -- almost...');
  });

  it("reads a repeated paragraph once, and a heading only above prose", () => {
    const seen = new Set<string>();
    const paragraphs = [{ text: "Alone", heading: true }, { text: "1.2. Kept", heading: true }, { text: english }];
    expect(cleanDocument(paragraphs, seen)).toBe(`Kept\n\n${english}`);
    expect(cleanDocument(paragraphs, seen)).toBe("");
  });
});

describe("readers", () => {
  it("html: drops code and tables, decodes entities, marks headings", () => {
    const page =
      "<html><body><h2>A &amp; B</h2><pre>code</pre><p>One <code>x</code>\n two&#8217;s.</p><table><tr><td>cell</td></tr></table></body></html>";
    expect(readHtml(page)).toEqual([{ text: "A & B", heading: true }, { text: "One x two\u2019s." }]);
  });

  it("pod, rst and glossaries: prose at the margin only", () => {
    expect(readPod("=head1 NAME\n\nSome C<code> and L<perlre/Foo>.\n\n  $x = 1;\n\n=cut\n\nnot pod")).toEqual([
      { text: "NAME", heading: true },
      { text: "Some code and perlre Foo." },
    ]);
    expect(readRst("Title\n=====\n\nText with ``code`` and :ref:`a label <x>`::\n\n    code\n\n.. note:: no\n")).toEqual([
      { text: "Title", heading: true },
      { text: "Text with code and a label:" },
    ]);
    expect(readGlossary("actor\n\n   1. <programming> In {Chorus}, a unit.\n")).toEqual([[{ text: "actor: In Chorus, a unit." }]]);
  });

  it("stories: speech in quotes, nothing that the game fills in", () => {
    expect(readWml('message= _ "What is this place? Tell me."\nmessage= _ "Hello $unit.name, my old friend."')).toEqual([
      { text: '"What is this place? Tell me."' },
    ]);
    expect(readEndlessSky("`\tYou nod, and the alien smiles.`\n`Go to <planet> at once, they said.`")).toEqual([
      { text: "You nod, and the alien smiles." },
    ]);
  });
});

describe("the split", () => {
  const words = (seed: number) => Array.from({ length: 200 }, (_, i) => `w${Math.floor(hashFraction(`${seed}/${i}`) * 5000)}`).join(" ");
  const document = (id: string, text: string) => ({ id, source: "test", licence: "none", text });

  it("holds out about one in twenty, whatever else is in the corpus", () => {
    const documents = Array.from({ length: 400 }, (_, i) => document(`d${i}`, words(i)));
    const whole = splitDocuments(documents);
    expect(whole.heldOut.length).toBeGreaterThan(5);
    expect(whole.heldOut.length).toBeLessThan(40);
    expect(whole.train.length + whole.heldOut.length).toBe(400);
    const half = splitDocuments(documents.slice(0, 200));
    expect(half.heldOut.every((one) => whole.heldOut.includes(one))).toBe(true);
  });

  it("moves a near duplicate of training text to training", () => {
    const documents = Array.from({ length: 400 }, (_, i) => document(`d${i}`, words(i)));
    const [victim] = splitDocuments(documents).heldOut;
    const copy = splitDocuments(documents).train[0]!;
    const changed = documents.map((one) => (one.id === victim!.id ? document(one.id, `${copy.text} and one more line`) : one));
    const { heldOut, nearDuplicates } = splitDocuments(changed);
    expect(nearDuplicates).toBe(1);
    expect(heldOut.map((one) => one.id)).not.toContain(victim!.id);
  });
});

describe("the byte n-gram baseline", () => {
  const text = new TextEncoder().encode("the cat sat on the mat and the rat sat on the cat. ".repeat(20) + english);

  it("gives probabilities that sum to one in any context", () => {
    const model = new ByteKneserNey(text, 5);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 4 }), fc.nat(text.length - 4), (random, start) => {
        for (const context of [random, text.subarray(start, start + 4)]) {
          let sum = 0;
          for (let byte = 0; byte < 256; byte++) sum += model.probability(context, byte);
          expect(sum).toBeCloseTo(1, 9);
        }
      }),
      { numRuns: 30 },
    );
  });

  it("costs fewer bits with longer contexts, on text like its own", () => {
    const bits = [1, 2, 5].map((order) => new ByteKneserNey(text, order).bits(text));
    expect(bits[0]! > bits[1]! && bits[1]! > bits[2]!).toBe(true);
  });
});
