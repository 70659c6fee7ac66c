import { Random } from "../../src/graph/index.ts";
import { never, noise, type Population, pbt, truncation } from "../../src/methods/index.ts";
import { uniform, type Values } from "../../src/train/search/space.ts";

const space = { h0: uniform(0, 1), h1: uniform(0, 1) };

/** Two workers ascend Q̂(θ|h) = 1.2 − (h₀θ₀² + h₁θ₁²) and are judged by Q(θ) = 1.2 − (θ₀² + θ₁²). */
class Toy implements Population {
  readonly #theta = [
    [0.9, 0.9],
    [0.9, 0.9],
  ];

  async train(values: readonly Values[], steps: number): Promise<void> {
    for (let step = 0; step < steps; step++)
      for (const [member, { h0, h1 }] of values.entries())
        for (const [i, h] of [h0, h1].entries()) this.#theta[member]![i]! -= 0.02 * 2 * (h as number) * this.#theta[member]![i]!;
  }

  async evaluate(): Promise<number[]> {
    return this.#theta.map(([a, b]) => 1.2 - (a! ** 2 + b! ** 2));
  }

  async copy(from: number, to: number): Promise<void> {
    this.#theta[to] = [...this.#theta[from]!];
  }
}

/** The best Q after 200 steps of two workers that each see one of the coordinates: by PBT, and left alone (a grid search). */
export async function toy(seed: number): Promise<{ pbt: number; grid: number }> {
  const initial = [
    { h0: 1, h1: 0 },
    { h0: 0, h1: 1 },
  ];
  const common = { space, steps: 200, seed: new Random(seed).integer(2 ** 31), initial };
  const options = { population: 2, ready: 4, explore: noise(0.1) };
  const found = await pbt({ ...options, exploit: truncation(0.5) }).search({ ...common, population: new Toy() });
  const grid = await pbt({ ...options, exploit: never() }).search({ ...common, population: new Toy() });
  return { pbt: found.best.score, grid: grid.best.score };
}
