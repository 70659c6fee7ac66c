import type { Values } from "../../train/search/space.ts";

/**
 * Models that train side by side. A search knows nothing else of them: they may be separate models, run directories ({@link RunPopulation}) or slices
 * of one batched graph ({@link StackedPopulation}).
 */
export interface Population {
  /** Trains every member by `steps` steps from where it is, with values of its own. */
  train(values: readonly Values[], steps: number): Promise<void>;
  /**
   * The metric of each member as it is now, on data that nobody trains on: a function of its weights alone. NaN for a member that is past measuring,
   * which ranks last.
   */
  evaluate(): Promise<readonly number[]>;
  /** Puts the whole of one member in another's place: weights, moments, number of updates. Nothing else of the members changes. */
  copy(from: number, to: number): Promise<void>;
  /** Writes what the members are into an empty directory. */
  save?(directory: string): Promise<void>;
  /** Makes the members what {@link save} wrote, bit for bit. */
  load?(directory: string): Promise<void>;
}
