import { EspalierError, Random } from "../graph/index.ts";
import type { Batch, BatchSource } from "./batch-source.ts";

/** Weights by source; they need not add up to 1. */
export type Weights = Readonly<Record<string, number>>;

/** So many draws are laid out together; weights that change take effect with the next. */
const blockLength = 32;

/**
 * Which of several sources each draw comes from: a function of (weights, seed, draw) alone. Draws come in blocks of 32, in which a source has its
 * share of draws rounded so that its count since the beginning is never a whole draw from its due; within a block the order is random.
 */
export class Mixture {
  readonly names: readonly string[];
  readonly #weights: (draw: number) => Weights;
  readonly #seed: number;
  /** Draws of each source before each block, and what was due to it by then. */
  readonly #before: { counts: number[]; due: number[] }[];
  #latest: { block: number; order: number[] } | undefined;

  /**
   * @param weights or a function of the draw (from 0), asked at the beginning of each block. For a draw of the past it must answer as it did then,
   * in a resumed run too.
   */
  constructor(names: readonly string[], weights: Weights | ((draw: number) => Weights), seed = 0) {
    if (names.length === 0) throw new EspalierError("data-mixture", "A mixture needs at least one source.");
    this.names = names;
    this.#weights = typeof weights === "function" ? weights : () => weights;
    this.#seed = seed;
    this.#before = [{ counts: names.map(() => 0), due: names.map(() => 0) }];
    this.#shares(0);
  }

  /** The source of a draw (its place among the names), and how many draws it had before. */
  draw(draw: number): { source: number; nth: number } {
    const block = Math.floor(draw / blockLength);
    const source = this.#block(block).order[draw - block * blockLength]!;
    return { source, nth: this.drawsBefore(draw, source) };
  }

  /** How many of the draws before one came from a source. */
  drawsBefore(draw: number, source: number): number {
    const block = Math.floor(draw / blockLength);
    const { order } = this.#block(block);
    let count = this.#before[block]!.counts[source]!;
    for (let i = 0; i < draw - block * blockLength; i++) if (order[i] === source) count++;
    return count;
  }

  /** Each source's share of the draws, adding up to 1. */
  shares(draw: number): number[] {
    return this.#shares(Math.floor(draw / blockLength));
  }

  #block(block: number): { order: number[] } {
    if (this.#latest?.block === block) return this.#latest;
    // Weights may depend on anything, so that counts are known only by counting.
    for (let b = this.#before.length - 1; b <= block; b++) this.#before.push(this.#after(b));
    const [from, to] = [this.#before[block]!, this.#before[block + 1]!];
    const order = this.names.flatMap((_, k) => Array<number>(to.counts[k]! - from.counts[k]!).fill(k));
    this.#latest = { block, order: new Random(this.#seed, block).shuffle(order) };
    return this.#latest;
  }

  #after(block: number): { counts: number[]; due: number[] } {
    const { counts, due } = this.#before[block]!;
    const shares = this.#shares(block);
    const owed = due.map((d, k) => d + shares[k]! * blockLength);
    // Largest remainders: everybody's whole draws, and the rest to those who are owed most.
    const next = counts.map((count, k) => Math.max(count, Math.floor(owed[k]! + 1e-9)));
    let left = blockLength - next.reduce((n, count, k) => n + count - counts[k]!, 0);
    const byDebt = shares.map((_, k) => k).sort((a, b) => owed[b]! - next[b]! - (owed[a]! - next[a]!) || a - b);
    for (let i = 0; left > 0; i++, left--) next[byDebt[i % byDebt.length]!]!++;
    for (let i = byDebt.length - 1; left < 0; i = (i || byDebt.length) - 1) {
      const k = byDebt[i]!;
      if (next[k]! === counts[k]!) continue;
      next[k]!--;
      left++;
    }
    return { counts: next, due: owed };
  }

  #shares(block: number): number[] {
    const weights = this.#weights(block * blockLength);
    const own = this.names.map((name) => (Object.hasOwn(weights, name) ? weights[name]! : Number.NaN));
    const total = own.reduce((a, b) => a + b, 0);
    if (!(total > 0 && Number.isFinite(total) && own.every((weight) => weight >= 0))) {
      const given = this.names.map((name, k) => `${name} ${own[k]}`).join(", ");
      throw new EspalierError("data-mixture", `Weights are numbers of at least 0, one for every source and not all 0; they are ${given}.`);
    }
    return own.map((weight) => weight / total);
  }
}

export interface MixOptions {
  seed?: number;
  /** Instead of the sources' own weights: a function of the step (see {@link Mixture}). */
  weights?: (step: number) => Weights;
  /**
   * When an epoch of the mixture ends: with the first source that was seen as a whole, or when all were. Default "all". Sources that are through begin
   * their next epoch, in another order.
   */
  epoch?: "first" | "all";
}

export interface MixedBatches extends BatchSource {
  readonly names: readonly string[];
  /** The source of a step's batch, and the batch of it. */
  sourceAt(step: number): { name: string; step: number };
  /** How often each source was seen before a step, with fractions. */
  epochsBefore(step: number): Record<string, number>;
}

/**
 * Batches of several sources, each batch from one of them, as often as the weights say.
 * @param sources by name, which batches' descriptions begin with
 */
export function mixBatches(
  sources: Readonly<Record<string, { source: BatchSource; weight?: number }>>,
  { seed = 0, weights, epoch = "all" }: MixOptions = {},
): MixedBatches {
  const names = Object.keys(sources);
  const own = Object.fromEntries(names.map((name) => [name, sources[name]!.weight ?? 1]));
  const mixture = new Mixture(names, weights ?? own, seed);
  const batchesPerEpoch = mixedEpoch(
    mixture.shares(0),
    names.map((name) => sources[name]!.source.batchesPerEpoch),
    epoch,
  );
  return {
    names,
    batchesPerEpoch,
    batch(step) {
      const { source, nth } = mixture.draw(step);
      const name = names[source]!;
      const named = (batch: Batch): Batch => ({ ...batch, description: `${name}: ${batch.description}` });
      const batch = sources[name]!.source.batch(nth);
      return batch instanceof Promise ? batch.then(named) : named(batch);
    },
    sourceAt(step) {
      const { source, nth } = mixture.draw(step);
      return { name: names[source]!, step: nth };
    },
    epochsBefore: (step) =>
      Object.fromEntries(names.map((name, k) => [name, mixture.drawsBefore(step, k) / sources[name]!.source.batchesPerEpoch])),
  };
}

/** Draws until the first, or every, source was seen as a whole; sources that are never drawn from do not count. */
export function mixedEpoch(shares: readonly number[], lengths: readonly number[], epoch: "first" | "all"): number {
  const each = shares.flatMap((share, k) => (share > 0 ? [lengths[k]! / share] : []));
  return epoch === "first" ? Math.max(1, Math.floor(Math.min(...each))) : Math.ceil(Math.max(...each) - 1e-9);
}
