import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { makeDirectory, readJsonObject, writeFileAtomically, writeJson } from "../../checkpoints/index.ts";
import { EspalierError, fewProblems } from "../../graph/index.ts";
import { type Copy, policyLine } from "./lineage.ts";
import type { Population } from "./population.ts";

const [stateFile, policyFile] = ["pbt.json", "pbt_policy.jsonl"];

const schema = z.object({
  /** What is searched and how: a search that goes on must be the same. */
  search: z.unknown(),
  /** Of every evaluation, each member's score; null for NaN. */
  scores: z.array(z.array(z.number().nullable())),
  /** The folder of the population's own state. */
  population: z.string().regex(/^evaluation-\d+$/),
});

/**
 * A search on disk: `pbt.json`, the population's own state in a folder that it names, and the policy log. All else follows from the scores. A kill
 * leaves the state of one evaluation or of the next.
 */
export class SearchRecord {
  readonly #directory: string;
  readonly #search: unknown;
  readonly #population: Required<Pick<Population, "save" | "load">>;

  constructor(directory: string, search: unknown, population: Population) {
    const { save, load } = population;
    if (!save || !load)
      throw new EspalierError("bad-option", "pbt: this population cannot be saved (it has no save and load), so leave the directory out.");
    this.#directory = directory;
    // As it will be read.
    this.#search = JSON.parse(JSON.stringify(search));
    this.#population = { save: save.bind(population), load: load.bind(population) };
  }

  /** Writes where the search is after its newest evaluation and what followed from that. */
  async save(scores: readonly (readonly number[])[], copies: readonly Copy[]): Promise<void> {
    makeDirectory(this.#directory);
    const population = `evaluation-${scores.length}`;
    const path = join(this.#directory, population);
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path);
    await this.#population.save(path);
    const lines = copies.map((copy) => `${JSON.stringify(policyLine(copy))}\n`).join("");
    writeFileAtomically(join(this.#directory, policyFile), (append) => append(new TextEncoder().encode(lines)));
    const finite = scores.map((of) => of.map((score) => (Number.isNaN(score) ? null : score)));
    writeJson(join(this.#directory, stateFile), { search: this.#search, scores: finite, population } satisfies z.input<typeof schema>);
    for (const name of readdirSync(this.#directory))
      if (/^evaluation-\d+$/.test(name) && name !== population) rmSync(join(this.#directory, name), { recursive: true, force: true });
  }

  refuseOther(): void {
    if (existsSync(join(this.#directory, stateFile)))
      throw new EspalierError(
        "run-exists",
        `${this.#directory} holds a search already: continue it with resume, or give another directory.`,
      );
  }

  /** The scores so far, and how the population becomes what it was then. */
  read(): { scores: number[][]; restore(): Promise<void> } {
    const file = join(this.#directory, stateFile);
    if (!existsSync(file)) throw new EspalierError("nothing-to-resume", `${this.#directory} holds no search to resume; leave resume out.`);
    const parsed = schema.safeParse(readJsonObject(file));
    if (!parsed.success) {
      const problems = fewProblems(parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`));
      throw new EspalierError("bad-search", `${file} is damaged: ${problems.join("; ")}`);
    }
    const { search, scores, population } = parsed.data;
    if (JSON.stringify(search) !== JSON.stringify(this.#search))
      throw new EspalierError(
        "resume-mismatch",
        `${this.#directory} cannot be resumed as another search: it was ${JSON.stringify(search)} and is now ${JSON.stringify(this.#search)}.`,
      );
    return {
      scores: scores.map((of) => of.map((score) => score ?? Number.NaN)),
      restore: () => this.#population.load(join(this.#directory, population)),
    };
  }
}
