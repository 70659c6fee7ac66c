import { rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject, writeJson } from "../../checkpoints/index.ts";
import type { Values } from "../../train/search/space.ts";
import type { Population } from "./population.ts";

/** A member's next part: to be trained in a run directory of its own. */
export interface MemberRun {
  member: number;
  values: Values;
  /** Counts the parts from 0. */
  part: number;
  /** Steps of the member at the part's end. */
  until: number;
  directory: string;
  /** The run directory whose newest checkpoint it begins from (`branchFrom` of `train`). Absent: from the start. */
  from: string | undefined;
}

export interface RunPopulationOptions {
  /** Members lie in `<directory>/member-NNN/part-NNN`. */
  directory: string;
  /** Trains up to `until`, with a checkpoint there, and returns the score (NaN: it failed). Asked for all members at once. */
  run(run: MemberRun): Promise<number>;
}

const fileName = "members.json";
const numbered = (name: string, number: number): string => `${name}-${String(number).padStart(3, "0")}`;

/**
 * A population of training runs. Each part of a member is a run directory of its own, which begins from a checkpoint of the part before, its own or
 * another member's: copying copies nothing, no directory is written by two, and a part that was cut short is done again without harm.
 */
export class RunPopulation implements Population {
  readonly #o: RunPopulationOptions;
  #part = 0;
  #step = 0;
  /** What each member begins its next part from. */
  #from: (string | undefined)[] = [];
  #scores: readonly number[] = [];

  constructor(options: RunPopulationOptions) {
    this.#o = options;
  }

  #directoryOf(member: number, part: number): string {
    return join(this.#o.directory, numbered("member", member), numbered("part", part));
  }

  async train(values: readonly Values[], steps: number): Promise<void> {
    const part = this.#part++;
    this.#step += steps;
    // Those of the part before are what this one begins from.
    for (const member of values.keys())
      if (part > 1) rmSync(join(this.#directoryOf(member, part - 2), "checkpoints"), { recursive: true, force: true });
    this.#scores = await Promise.all(
      values.map((of, member) => {
        const directory = this.#directoryOf(member, part);
        return this.#o.run({ member, values: of, part, until: this.#step, directory, from: this.#from[member] });
      }),
    );
    // A member that failed has nothing to begin from, until it copies another one.
    this.#from = this.#scores.map((_, member) => this.#directoryOf(member, part));
  }

  async evaluate(): Promise<readonly number[]> {
    return this.#scores;
  }

  async copy(from: number, to: number): Promise<void> {
    this.#from[to] = this.#from[from];
  }

  async save(directory: string): Promise<void> {
    writeJson(join(directory, fileName), { part: this.#part, step: this.#step, from: this.#from });
  }

  async load(directory: string): Promise<void> {
    const count = z.int().nonnegative();
    const schema = z.object({ part: count, step: count, from: z.array(z.string()) });
    const { part, step, from } = schema.parse(readJsonObject(join(directory, fileName)));
    [this.#part, this.#step, this.#from] = [part, step, from];
  }
}
