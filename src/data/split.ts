import { EspalierError, Random } from "../graph/index.ts";
import type { Example } from "./examples.ts";
import { nearDuplicateGroups } from "./near-duplicates.ts";

export interface SplitOptions {
  /** Share of the examples that is held out, in [0, 1); 0.2 unless told. */
  heldOut?: number;
  seed?: number;
  /** Groups texts that are nearly the same. Default {@link nearDuplicateGroups}. */
  groupsOf?: (texts: readonly string[]) => readonly number[];
}

/** Both parts keep the order of the list. */
export interface Split<E extends Example = Example> {
  train: E[];
  heldOut: E[];
  /** Examples with the text and the label of an earlier one. */
  duplicatesRemoved: number;
}

/**
 * Splits examples into a part to train on and a part to measure on: the same share of every label, and no near-duplicate
 * ({@link nearDuplicateGroups}) of a held-out text in training, since a model would be praised for having memorised it.
 * The same list, share and seed give the same split. A group that is larger than what its labels may hold out goes to training.
 */
export function splitExamples<E extends Example>(examples: readonly E[], options: SplitOptions = {}): Split<E> {
  const { heldOut: share = 0.2, seed = 0, groupsOf = nearDuplicateGroups } = options;
  if (!(share >= 0 && share < 1)) {
    throw new EspalierError(
      "data-split",
      `The held-out share is a number from 0 to below 1, not ${share}. 0.2 holds out every fifth example.`,
    );
  }
  const kept = withoutDuplicates(examples);
  const duplicatesRemoved = examples.length - kept.length;
  if (share === 0) return { train: kept, heldOut: [], duplicatesRemoved };
  const groups = grouped(kept, groupsOf(kept.map(({ text }) => text)));
  if (groups.length < 2) refuse(kept);
  const chosen = chooseGroups(groups, share, seed);
  const out = new Set<Example>(groups.filter((_, index) => chosen.has(index)).flat());
  return { train: kept.filter((e) => !out.has(e)), heldOut: kept.filter((e) => out.has(e)), duplicatesRemoved };
}

/** Equal texts under different labels (or with different targets) both stay: which label is right is not ours to say. They share a group, hence a part. */
function withoutDuplicates<E extends Example>(examples: readonly E[]): E[] {
  const seen = new Set<string>();
  return examples.filter(({ text, label, target }) => {
    const key = JSON.stringify([label, text, target]);
    return !seen.has(key) && seen.add(key);
  });
}

function grouped(examples: readonly Example[], numbers: readonly number[]): Example[][] {
  const groups: Example[][] = [];
  for (const [index, group] of numbers.entries()) {
    // Groups are numbered in order of first appearance.
    if (group === groups.length) groups.push([]);
    groups[group]!.push(examples[index]!);
  }
  return groups;
}

const labelOf = (example: Example) => example.label ?? "";

function countLabels(examples: readonly Example[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const example of examples) counts.set(labelOf(example), (counts.get(labelOf(example)) ?? 0) + 1);
  return counts;
}

/** Indices of the groups to hold out. */
function chooseGroups(groups: readonly Example[][], share: number, seed: number): Set<number> {
  const order = new Random(seed).shuffle(Array.from(groups.keys()));
  const counts = groups.map(countLabels);
  // A label of two examples has one on either side; a single one is trained on.
  const room = new Map([...countLabels(groups.flat())].map(([label, n]) => [label, Math.min(n - 1, Math.max(1, Math.round(n * share)))]));
  const chosen = new Set<number>();
  const take = (index: number) => {
    chosen.add(index);
    for (const [label, n] of counts[index]!) room.set(label, room.get(label)! - n);
  };
  const targets = new Map(room);
  for (const index of order) if ([...counts[index]!].every(([label, n]) => n <= room.get(label)!)) take(index);
  // Where every group of a label was too large, its smallest is better than a label that is never measured.
  for (const [label, target] of targets) {
    if (target === 0 || room.get(label) !== target) continue;
    const candidates = order.filter((index) => counts[index]!.has(label) && !chosen.has(index));
    const smallest = candidates.sort((a, b) => groups[a]!.length - groups[b]!.length)[0];
    const leavesEveryLabel = (index: number) =>
      [...counts[index]!.keys()].every((name) =>
        groups.some((_, other) => other !== index && !chosen.has(other) && counts[other]!.has(name)),
      );
    if (smallest !== undefined && leavesEveryLabel(smallest)) take(smallest);
  }
  // Every label may be single: something must be held out all the same.
  if (chosen.size === 0) take(order.reduce((best, index) => (groups[index]!.length < groups[best]!.length ? index : best)));
  return chosen;
}

function refuse(examples: readonly Example[]): never {
  const first = examples[0];
  const found =
    first === undefined
      ? "There are no examples"
      : `${first.file}: its ${examples.length === 1 ? "only example has" : `${examples.length} examples are near-duplicates of one another and have`} no independent part`;
  throw new EspalierError(
    "data-split",
    `${found} to hold out. Give more examples, or measure on examples of another file (--eval-data of espalier train).`,
  );
}
