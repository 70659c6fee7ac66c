/**
 * An n-gram model of bytes with interpolated modified Kneser-Ney smoothing: the strongest model of its kind, so that beating it means something.
 *
 * The highest order counts occurrences; lower orders count in how many contexts a byte was seen (continuation counts). Three discounts per order
 * (counts of 1, 2, 3 and more) are estimated from the counts of counts. Below order 1 stands the uniform distribution over 256 bytes.
 */

/** Contexts and n-grams of up to five bytes are whole numbers below 2⁴⁸: `number` holds them exactly. */
const shift = 256;

interface Order {
  /** n-gram → count (occurrences at the top, continuations below). */
  counts: Map<number, number>;
  /** context → [sum of counts, types with count 1, with 2, with 3 or more]. */
  contexts: Map<number, Float64Array>;
  discounts: [number, number, number];
}

export class ByteKneserNey {
  readonly order: number;
  /** `#orders[n - 1]` predicts from n - 1 bytes. */
  readonly #orders: Order[];

  constructor(text: Uint8Array, order: number) {
    if (order < 1 || order > 5) throw new RangeError(`order is ${order}; 1 to 5 fit exact integer keys`);
    this.order = order;
    let counts = occurrences(text, order);
    this.#orders = [summarise(counts)];
    for (let n = order - 1; n >= 1; n--) {
      const lower = new Map<number, number>();
      const modulus = shift ** n;
      // Dropping the first byte of every distinct (n+1)-gram counts the contexts of each n-gram.
      for (const gram of counts.keys()) {
        const suffix = gram % modulus;
        lower.set(suffix, (lower.get(suffix) ?? 0) + 1);
      }
      counts = lower;
      this.#orders.unshift(summarise(counts));
    }
  }

  /** −log₂ of the probability of the whole text; the first bytes are predicted from the shorter contexts that exist. */
  bits(text: Uint8Array): number {
    let total = 0;
    for (let i = 0; i < text.length; i++) total -= Math.log2(this.probability(text.subarray(Math.max(0, i - this.order + 1), i), text[i]!));
    return total;
  }

  /** P(byte | up to order − 1 bytes of context). */
  probability(context: Uint8Array, byte: number): number {
    let probability = 1 / 256;
    let key = 0;
    for (let n = 1; n <= context.length + 1; n++) {
      const { counts, contexts, discounts } = this.#orders[n - 1]!;
      if (n > 1) key += context[context.length - n + 1]! * shift ** (n - 2);
      const seen = contexts.get(key);
      // An unseen context says nothing, and neither do longer ones.
      if (!seen) break;
      const [sum, ones, twos, more] = seen as unknown as [number, number, number, number];
      const count = counts.get(key * shift + byte) ?? 0;
      const discount = count === 0 ? 0 : discounts[Math.min(count, 3) - 1]!;
      const backOff = (discounts[0] * ones + discounts[1] * twos + discounts[2] * more) / sum;
      probability = (count - discount) / sum + backOff * probability;
    }
    return probability;
  }
}

function occurrences(text: Uint8Array, n: number): Map<number, number> {
  const counts = new Map<number, number>();
  const modulus = shift ** (n - 1);
  let key = 0;
  for (let i = 0; i < text.length; i++) {
    key = (key % modulus) * shift + text[i]!;
    if (i >= n - 1) counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

function summarise(counts: Map<number, number>): Order {
  const contexts = new Map<number, Float64Array>();
  const countsOfCounts = [0, 0, 0, 0, 0];
  for (const [gram, count] of counts) {
    const context = Math.floor(gram / shift);
    let entry = contexts.get(context);
    if (!entry) {
      entry = new Float64Array(4);
      contexts.set(context, entry);
    }
    entry[0]! += count;
    entry[Math.min(count, 3)]! += 1;
    if (count <= 4) countsOfCounts[count]! += 1;
  }
  return { counts, contexts, discounts: discounts(countsOfCounts) };
}

/** Chen and Goodman's estimates; a tiny text, where they are undefined, gets the usual 0.75. */
function discounts([, one = 0, two = 0, three = 0, four = 0]: readonly number[]): [number, number, number] {
  if (one === 0 || two === 0 || three === 0) return [0.75, 0.75, 0.75];
  const y = one / (one + 2 * two);
  const bounded = (value: number, count: number) => Math.min(Math.max(value, 0.01), count - 0.01);
  return [bounded(1 - (2 * y * two) / one, 1), bounded(2 - (3 * y * three) / two, 2), bounded(3 - (4 * y * four) / three, 3)];
}
