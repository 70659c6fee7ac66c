import { z } from "zod";
import { EspalierError, Random } from "../../graph/index.ts";
import { type Space, sample, type Values } from "../../train/search/space.ts";
import { ranked } from "../../train/search/successive-halving.ts";
import { defineSearch } from "../define.ts";
import { exploitSchema, sourceOf, truncation } from "./exploit.ts";
import { explored, exploreSchema, perturb } from "./explore.ts";
import type { Copy, Lineage } from "./lineage.ts";
import type { Population } from "./population.ts";
import { SearchRecord } from "./search-record.ts";

/** Steps or, below 1, a share of all. */
const stepsOrShare = z.number().gt(0);

const schema = z.strictObject({
  /** Members. With fewer than ten, luck decides much. */
  population: z.int().min(1).default(16),
  /** Steps (or, below 1, the share of all steps) after which members may copy. Long enough for new values to show what they do. */
  ready: stepsOrShare.default(0.05),
  /** Steps (or share) between evaluations, a whole part of `ready`. Default: `ready`. A t-test needs several scores. */
  evaluateEvery: stepsOrShare.optional(),
  /** Who copies whom: `truncation()`, `tTest()`, `tournament()` or `never()`. */
  exploit: exploitSchema.default(truncation()),
  /** How copied values change: `perturb()` or `noise()`. */
  explore: exploreSchema.default(perturb()),
});

export type PbtOptions = z.input<typeof schema>;
type Options = z.output<typeof schema>;

export interface PbtTask {
  population: Population;
  /** What varies. It must be possible to change it in the middle of a run: a learning rate, not a rank. */
  space: Space;
  /** Of each member. */
  steps: number;
  /** Of the first values and of all draws. Default 0. */
  seed?: number;
  /** Each member's values at the start, in place of draws. */
  initial?: readonly Values[];
  /** Asked when scores are compared. Default: yes. */
  higherIsBetter?(): boolean;
  /** Where the search is saved after each evaluation. Without it nothing is written. */
  directory?: string;
  /** Continue the search that `directory` holds; the population is freshly made and not yet trained. */
  resume?: boolean;
  onEvaluation?(report: PbtReport): void;
}

export interface PbtReport {
  step: number;
  /** By member: what it was trained with until now, and the score that came of it. */
  values: readonly Values[];
  scores: readonly number[];
  /** What follows from the scores. */
  copies: readonly Copy[];
  /** Whether this was computed before the search was resumed. */
  known: boolean;
}

export interface Member {
  member: number;
  /** At the end. */
  score: number;
  values: Values;
}

export interface PbtResult {
  /** The best at the end. */
  best: Member;
  /** All, the best first. */
  members: Member[];
  /** How the values came about; see `scheduleOf` and `replay`. */
  lineage: Lineage;
  evaluations: { step: number; scores: readonly number[] }[];
}

/** A search over members that train side by side. */
export interface PopulationSearch {
  readonly name: string;
  /** Options with their defaults filled in. */
  readonly options: Readonly<Record<string, unknown>>;
  search(task: PbtTask): Promise<PbtResult>;
}

/**
 * Population-based training: members train side by side; from time to time the worse ones take over weights, moments and values of better ones and go on
 * with values that differ a little. So the values follow a schedule, which no search over fixed values finds.
 *
 * In rounds: all members train, all are measured, then it is decided who copies whom (the paper lets each member go at its own pace). So everything is
 * a function of seed and scores, and a search that is resumed ends as if it had not been stopped.
 */
export const pbt = defineSearch(
  {
    slug: "pbt",
    family: "search",
    summary: "train a population; the worse copy weights and options of the better and vary the options",
    paper: {
      title: "Population Based Training of Neural Networks",
      authors: "Jaderberg, Dalibard, Osindero, Czarnecki, Donahue, Razavi, Vinyals, Green, Dunning, Simonyan, Fernando and Kavukcuoglu",
      year: 2017,
    },
    seams: ["search"],
  },
  schema,
  (options): PopulationSearch => ({ name: "pbt", options, search: (task) => search(options, task) }),
);

async function search(options: Options, task: PbtTask): Promise<PbtResult> {
  const { population, space, seed = 0, higherIsBetter = () => true, onEvaluation } = task;
  const { steps, ready, every } = rounds(options, task.steps);
  const initial = task.initial ?? Array.from({ length: options.population }, (_, member) => sample(space, new Random(seed, member)));
  if (initial.length !== options.population)
    throw new EspalierError(
      "bad-option",
      `pbt: there are initial values for ${initial.length} members and a population of ${options.population}.`,
    );
  const identity = { ...options, steps, seed, space, ...(task.initial && { initial }) };
  const record = task.directory === undefined ? undefined : new SearchRecord(task.directory, identity, population);
  if (task.resume && !record) throw new EspalierError("bad-option", "pbt: resume needs the directory of the search.");
  if (!task.resume) record?.refuseOther();
  const saved = task.resume ? record!.read() : undefined;
  const copies: Copy[] = [];
  const evaluations: PbtResult["evaluations"] = [];
  let values = initial;
  // The scores of each member's weights and of those that they come from.
  let histories: number[][] = initial.map(() => []);
  for (let step = 0; step < steps; ) {
    const known = saved?.scores[evaluations.length];
    const length = Math.min(every, steps - step);
    if (!known) await population.train(values, length);
    step += length;
    const scores = known ?? (await population.evaluate());
    refuseLoss(scores, initial.length, step);
    evaluations.push({ step, scores });
    histories = histories.map((of, member) => [...of, scores[member]!]);
    const now =
      step < steps && step % ready === 0 ? decide({ options, space, seed, step, values, histories, higherIsBetter: higherIsBetter() }) : [];
    copies.push(...now);
    onEvaluation?.({ step, values, scores, copies: now, known: known !== undefined });
    // Weights are what they were measured as: the score goes with them.
    [values, histories] = [applied(values, now, (c) => c.newValues), applied(histories, now, (c) => histories[c.source]!)];
    if (known && evaluations.length === saved!.scores.length) await saved!.restore();
    if (known) continue;
    for (const { source, target } of inOrder(now)) await population.copy(source, target);
    await record?.save(
      evaluations.map((e) => e.scores),
      copies,
    );
  }
  const last = evaluations.at(-1)!.scores;
  const members = ranked(
    values.map((of, trial) => ({ trial, score: last[trial]!, values: of })),
    higherIsBetter(),
  ).map(({ trial, ...rest }) => ({ member: trial, ...rest }));
  return { best: members[0]!, members, lineage: { steps, initial, copies }, evaluations };
}

/** Whole steps. */
function rounds(options: Options, steps: number): { steps: number; ready: number; every: number } {
  if (!(Number.isInteger(steps) && steps >= 1))
    throw new EspalierError("bad-option", `pbt: steps must be a whole number of at least 1, got ${steps}.`);
  const whole = (given: number) => Math.max(1, Math.round(given < 1 ? given * steps : given));
  const ready = whole(options.ready);
  const every = whole(options.evaluateEvery ?? ready);
  if (ready % every !== 0)
    throw new EspalierError(
      "bad-option",
      `pbt: members copy after every ${ready} steps, but are measured after every ${every}, which is no whole part of it.`,
    );
  return { steps, ready, every };
}

function refuseLoss(scores: readonly number[], members: number, step: number): void {
  if (scores.length !== members)
    throw new EspalierError("bad-population", `pbt: the population measures ${scores.length} members and has ${members}.`);
  if (scores.every(Number.isNaN))
    throw new EspalierError("search-failed", `pbt: no member can be measured any more after step ${step}: every score is NaN.`);
}

interface Standing {
  options: Options;
  space: Space;
  seed: number;
  step: number;
  values: readonly Values[];
  histories: readonly (readonly number[])[];
  higherIsBetter: boolean;
}

/** Who copies whom, and with what values the copies go on: a function of seed, step and scores. */
function decide({ options, space, seed, step, values, histories, higherIsBetter }: Standing): Copy[] {
  return values.flatMap((_, target) => {
    const random = new Random(seed, step, target);
    const source = sourceOf(options.exploit, target, histories, higherIsBetter, random);
    if (source === undefined) return [];
    const oldValues = values[source]!;
    return { step, target, source, oldValues, newValues: explored(options.explore, oldValues, space, random) };
  });
}

/** What copies leave of one thing for each member. */
const applied = <T>(of: readonly T[], copies: readonly Copy[], taken: (copy: Copy) => T): T[] =>
  of.map((own, member) => {
    const copy = copies.find(({ target }) => target === member);
    return copy ? taken(copy) : own;
  });

/** Copies in an order in which every source is as it was. There is one: sources rank before their targets. */
function inOrder(copies: readonly Copy[]): Copy[] {
  const [ordered, left] = [[] as Copy[], [...copies]];
  while (left.length > 0) {
    const next = left.findIndex(({ target }) => left.every(({ source }) => source !== target));
    ordered.push(...left.splice(next, 1));
  }
  return ordered;
}
