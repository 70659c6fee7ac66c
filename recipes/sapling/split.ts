/**
 * Which documents are held out: about one in twenty, by a seeded hash of the document's name, so that adding a source moves no other document.
 * A held-out document that shares much of its wording with the training split goes back to training.
 */
import { createHash } from "node:crypto";

export interface Document {
  /** `package:path`, with `#n` where a file holds several documents. */
  id: string;
  source: string;
  licence: string;
  text: string;
}

export const heldOutSeed = "sapling-1";
const oneIn = 20;
const shingleWords = 8;
const largestOverlap = 0.1;

/** A uniform number in [0, 1) that depends on nothing but `key`. */
export function hashFraction(key: string): number {
  return createHash("sha256").update(key).digest().readUIntBE(0, 6) / 2 ** 48;
}

export function splitDocuments(documents: readonly Document[]): { train: Document[]; heldOut: Document[]; nearDuplicates: number } {
  const train = documents.filter((document) => hashFraction(`${heldOutSeed}/${document.id}`) >= 1 / oneIn);
  let heldOut = documents.filter((document) => hashFraction(`${heldOutSeed}/${document.id}`) < 1 / oneIn);
  let nearDuplicates = 0;
  let unread: Document[] = train;
  // Text that moves to training may itself be near to what is still held out: repeat until nothing moves.
  const shared = new Set<number>();
  while (unread.length > 0) {
    const wanted = new Set<number>();
    for (const document of heldOut) for (const shingle of shingles(document.text)) wanted.add(shingle);
    for (const document of unread) for (const shingle of shingles(document.text)) if (wanted.has(shingle)) shared.add(shingle);
    const isNear = (document: Document) => {
      const own = [...shingles(document.text)];
      return own.filter((shingle) => shared.has(shingle)).length > own.length * largestOverlap;
    };
    unread = heldOut.filter(isNear);
    const moved = new Set(unread);
    heldOut = heldOut.filter((document) => !moved.has(document));
    train.push(...unread);
    nearDuplicates += unread.length;
  }
  return { train, heldOut, nearDuplicates };
}

/** 53-bit hashes of every run of eight words, ignoring case and punctuation. */
function* shingles(text: string): Generator<number> {
  const words = text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  const hashes = words.map(wordHash);
  for (let i = 0; i + shingleWords <= hashes.length; i++) {
    let hash = 0;
    for (let j = i; j < i + shingleWords; j++) hash = (hash * 69_069 + hashes[j]!) % 4_398_042_316_799;
    yield hash;
  }
}

function wordHash(word: string): number {
  let hash = 2_166_136_261;
  for (let i = 0; i < word.length; i++) hash = Math.imul(hash ^ word.charCodeAt(i), 16_777_619);
  return hash >>> 0;
}
