import { EspalierError, Random } from "../graph/index.ts";

const signatureLength = 128;
const shingleLength = 5;

/**
 * Groups texts that are nearly the same: returns a group id (from 0, in order of first appearance) per text. Two texts are linked when
 * the Jaccard similarity of their sets of 5-word shingles is at least `threshold`; groups are the connected components. Case and
 * punctuation do not count. Texts below 5 words are linked only when their words are the same.
 *
 * Candidates come from MinHash signatures in bands (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
 * chapter 3) and are then compared exactly, so no pair is linked wrongly; a pair at the threshold is missed with a chance below 1/1000.
 * @param onProgress is told how many texts were looked at; comparing them takes about as long again
 */
export function nearDuplicateGroups(texts: readonly string[], threshold = 0.7, onProgress?: (done: number, of: number) => void): number[] {
  if (!(threshold > 0 && threshold <= 1)) {
    throw new EspalierError("data-threshold", `The near-duplicate threshold is a similarity above 0 and at most 1, not ${threshold}.`);
  }
  const words = new Map<string, number>();
  const sets = texts.map((text) => shingles(text, words));
  const groups = new DisjointSets(texts.length);
  const distinct = linkEqualSets(sets, groups);
  const signatures = new Map<number, Uint32Array>();
  for (const index of distinct) {
    signatures.set(index, signature(sets[index]!));
    onProgress?.(index + 1, texts.length);
  }
  const rows = rowsPerBand(threshold);
  for (let start = 0; start + rows <= signatureLength; start += rows) {
    const buckets = new Map<number, number[]>();
    for (const [index, values] of signatures) {
      let key = 0;
      for (let r = start; r < start + rows; r++) key = mix(key ^ values[r]!);
      const bucket = buckets.get(key);
      if (bucket) bucket.push(index);
      else buckets.set(key, [index]);
    }
    for (const bucket of buckets.values()) if (bucket.length > 1) linkBucket(bucket, sets, groups, threshold);
  }
  return groups.numbered();
}

/** The most rows per band, that is the fewest false candidates, at which a pair at the threshold is missed less than once in 1000. */
function rowsPerBand(threshold: number): number {
  const missed = (rows: number) => (1 - threshold ** rows) ** Math.floor(signatureLength / rows);
  let rows = 1;
  while (rows < 16 && missed(rows + 1) < 1e-3) rows++;
  return rows;
}

/** Members that are linked already are not compared again: a mailing of a thousand variants costs a thousand links, not half a million. */
function linkBucket(bucket: readonly number[], sets: readonly Uint32Array[], groups: DisjointSets, threshold: number): void {
  const byRoot = new Map<number, number[]>();
  for (const index of bucket) {
    const root = groups.find(index);
    const members = byRoot.get(root);
    if (members) members.push(index);
    else byRoot.set(root, [index]);
  }
  const parts = [...byRoot.values()];
  for (let i = 1; i < parts.length; i++) {
    for (let j = 0; j < i; j++) {
      if (groups.find(parts[i]![0]!) === groups.find(parts[j]![0]!)) continue;
      if (parts[i]!.some((a) => parts[j]!.some((b) => similar(sets[a]!, sets[b]!, threshold)))) groups.join(parts[i]![0]!, parts[j]![0]!);
    }
  }
}

/** Links texts with equal sets and returns one index of each, so that the bands see no set twice. */
function linkEqualSets(sets: readonly Uint32Array[], groups: DisjointSets): number[] {
  const seen = new Map<number, number[]>();
  const distinct: number[] = [];
  for (const [index, set] of sets.entries()) {
    const key = set.reduce((hash, value) => mix(hash ^ value), set.length);
    const candidates = seen.get(key) ?? [];
    const twin = candidates.find((other) => similar(sets[other]!, set, 1));
    if (twin !== undefined) groups.join(index, twin);
    else {
      distinct.push(index);
      seen.set(key, [...candidates, index]);
    }
  }
  return distinct;
}

/** Sorted 32-bit hashes of the text's distinct shingles; never empty. */
function shingles(text: string, words: Map<string, number>): Uint32Array {
  const found = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  // A text of signs only stands for itself.
  if (found.length === 0) return Uint32Array.of(hashOf(text.trim()));
  const hashes = found.map((word) => {
    const hash = words.get(word) ?? hashOf(word);
    words.set(word, hash);
    return hash;
  });
  const set = new Uint32Array(Math.max(1, hashes.length - shingleLength + 1));
  for (let i = 0; i < set.length; i++) {
    let hash = 0;
    for (let j = i; j < Math.min(i + shingleLength, hashes.length); j++) hash = mix(Math.imul(hash, 31) + hashes[j]!);
    set[i] = hash;
  }
  set.sort();
  let size = 0;
  for (let i = 0; i < set.length; i++) if (i === 0 || set[i] !== set[i - 1]) set[size++] = set[i]!;
  return set.slice(0, size);
}

/** Jaccard similarity of two sorted sets against the threshold. */
function similar(a: Uint32Array, b: Uint32Array, threshold: number): boolean {
  if (Math.min(a.length, b.length) < threshold * Math.max(a.length, b.length)) return false;
  let shared = 0;
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const [x, y] = [a[i]!, b[j]!];
    if (x === y) shared++;
    if (x <= y) i++;
    if (y <= x) j++;
  }
  return shared >= threshold * (a.length + b.length - shared);
}

/** Fixed permutations: groups must not depend on the seed of a run. */
const permutations = (() => {
  const random = new Random(5, 128);
  return Array.from({ length: signatureLength }, () => [random.bits() | 1, random.bits()] as const);
})();

function signature(set: Uint32Array): Uint32Array {
  const lowest = new Uint32Array(signatureLength);
  for (const [k, [factor, offset]] of permutations.entries()) {
    let least = 0xffffffff;
    for (let i = 0; i < set.length; i++) {
      const value = (Math.imul(set[i]!, factor) + offset) >>> 0;
      if (value < least) least = value;
    }
    lowest[k] = least;
  }
  return lowest;
}

function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return mix(hash);
}

/** Spreads 32 bits over 32 bits, one to one (MurmurHash3's finaliser). */
function mix(value: number): number {
  let z = value ^ (value >>> 16);
  z = Math.imul(z, 0x85ebca6b);
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
  return (z ^ (z >>> 16)) >>> 0;
}

/** Union-find with path halving; the root is the first of its group. */
class DisjointSets {
  readonly #parent: Uint32Array;

  constructor(size: number) {
    this.#parent = Uint32Array.from({ length: size }, (_, index) => index);
  }

  find(index: number): number {
    const parent = this.#parent;
    let at = index;
    while (parent[at] !== at) {
      parent[at] = parent[parent[at]!]!;
      at = parent[at]!;
    }
    return at;
  }

  join(a: number, b: number): void {
    const [x, y] = [this.find(a), this.find(b)];
    this.#parent[Math.max(x, y)] = Math.min(x, y);
  }

  numbered(): number[] {
    const numbers = new Map<number, number>();
    return Array.from(this.#parent, (_, index) => {
      const root = this.find(index);
      if (!numbers.has(root)) numbers.set(root, numbers.size);
      return numbers.get(root)!;
    });
  }
}
