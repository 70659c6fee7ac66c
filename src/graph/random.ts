/**
 * Seeded random numbers on the host (xoshiro128**, Blackman and Vigna): initial weights, shuffles, samples.
 * The same seed gives the same sequence on every machine. Not for secrets.
 */
export class Random {
  readonly #state: Uint32Array;

  /** Several numbers make one seed, so that `new Random(seed, epoch)` needs no arithmetic on seeds. */
  constructor(...seed: number[]) {
    // SplitMix32 spreads nearby seeds over the whole state space.
    let h = 0x9e3779b9;
    const next = () => {
      h = (h + 0x9e3779b9) | 0;
      let z = h;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return (z ^ (z >>> 15)) >>> 0;
    };
    for (const part of seed) {
      h = (h ^ Math.trunc(part)) | 0;
      h = next() ^ Math.floor(part / 2 ** 32);
    }
    this.#state = Uint32Array.from({ length: 4 }, next);
  }

  /** 32 random bits. */
  bits(): number {
    const s = this.#state;
    const [s0, s1, s2, s3] = s as unknown as [number, number, number, number];
    const product = Math.imul(s1, 5);
    const out = Math.imul((product << 7) | (product >>> 25), 9);
    const t = s1 << 9;
    const a = s2 ^ s0;
    const b = s3 ^ s1;
    s[1] = s1 ^ a;
    s[0] = s0 ^ b;
    s[2] = a ^ t;
    s[3] = (b << 11) | (b >>> 21);
    return out >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return (this.bits() * 2 ** 21 + (this.bits() >>> 11)) / 2 ** 53;
  }

  /** Uniform integer in [0, limit). */
  integer(limit: number): number {
    return Math.floor(this.uniform() * limit);
  }

  /** Standard normal (Box and Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Shuffles in place (Fisher and Yates) and returns the array. */
  shuffle<T extends { length: number; [index: number]: unknown }>(items: T): T {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      [items[i], items[j]] = [items[j], items[i]];
    }
    return items;
  }
}
